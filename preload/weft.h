/*
 * weft.h - what a program may tell weft. Nothing has to: weft runs programs that have
 * never heard of it.
 *
 * The functions are weak: a program that uses them links without weft, and runs without
 * it; then they are NULL, and the macros do nothing.
 */
#ifndef WEFT_H
#define WEFT_H

#ifdef __cplusplus
extern "C" {
#endif

/*
 * From weft_pin() to weft_unpin() the calling thread stays on the kernel thread it is on,
 * which runs nothing else: when the thread blocks, the kernel thread waits for it, and
 * another one does the work of the others. For code that must not see its kernel thread
 * change: a lock or a device that remembers the kernel's thread id, a library that keeps
 * state by it. The two nest, and belong to the calling thread: unpinning what is not
 * pinned says so in one line on stderr, once, and does nothing.
 */
void weft_pin(void) __attribute__((weak));
void weft_unpin(void) __attribute__((weak));

#define WEFT_PIN()                                                                       \
	do {                                                                             \
		if (weft_pin)                                                            \
			weft_pin();                                                      \
	} while (0)
#define WEFT_UNPIN()                                                                     \
	do {                                                                             \
		if (weft_unpin)                                                          \
			weft_unpin();                                                    \
	} while (0)

#ifdef __cplusplus
}
#endif
#endif
