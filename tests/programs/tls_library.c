/* Loaded by dlopen_threads: initial-exec TLS, so that loading writes into every thread.
 */
#define MODEL __attribute__((tls_model("initial-exec")))

static __thread MODEL int value = 4711;
static __thread int dynamic = 815;

int tls_add(int n);

int tls_add(int n)
{
	dynamic += n;
	return (value += n) + dynamic;
}
