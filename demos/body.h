/*
 * body.h - the bytes that the demo servers serve and the load generator
 * expects.
 *
 * The path /N/SEED names a body: N bytes of one pseudo-random ring of 1 MiB,
 * from position SEED on. Server and client make the ring themselves, so every
 * byte of an answer can be compared, and an answer that went to the wrong
 * connection is seen, because neighbouring requests have other seeds.
 * demos/httpd.py makes the same ring in Python.
 */
#ifndef DEMOS_BODY_H
#define DEMOS_BODY_H

#include <stdint.h>
#include <stdlib.h>

#define BODY_RING (1u << 20)
#define BODY_MAX  BODY_RING

/* The ring twice in a row: any body is then one piece of memory. */
static unsigned char *body_ring;

/* Fill the ring with splitmix64, least significant byte first. 0 or -1. */
static inline int body_init(void)
{
	unsigned char *ring = malloc(2 * BODY_RING);

	if (!ring)
		return -1;
	for (uint32_t i = 0; i < BODY_RING; i += 8) {
		uint64_t z = (i / 8 + 1) * 0x9e3779b97f4a7c15u;

		z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
		z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
		z ^= z >> 31;
		for (uint32_t b = 0; b < 8; b++)
			ring[i + b] = ring[BODY_RING + i + b] =
				(unsigned char)(z >> (8 * b));
	}
	body_ring = ring;
	return 0;
}

static inline const unsigned char *body_at(uint32_t seed)
{
	return body_ring + seed % BODY_RING;
}

/*
 * Read "/N/SEED", which ends at a NUL, a space or a '?'. 0, or -1 when the
 * path is anything else or asks for more than BODY_MAX bytes.
 */
static inline int body_parse(const char *path, uint32_t *ret_len, uint32_t *ret_seed)
{
	unsigned long long value[2];

	for (int i = 0; i < 2; i++) {
		char *end;

		if (path[0] != '/' || path[1] < '0' || path[1] > '9')
			return -1;
		value[i] = strtoull(path + 1, &end, 10);
		path = end;
	}
	if (*path != '\0' && *path != ' ' && *path != '?')
		return -1;
	if (value[0] > BODY_MAX || value[1] > UINT32_MAX)
		return -1;
	*ret_len = (uint32_t)value[0];
	*ret_seed = (uint32_t)value[1];
	return 0;
}

#endif
