/*
 * sitegen.c - weft-sitegen OUT.c DSO...: writes the tables compiled into libweft.
 *
 * Runs on the machine that builds weft, over its libc.so.6 and ld.so. Elsewhere
 * the tables are found to be for another build-id and libweft-sites.so decides.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "interpose/site_finder.h"

static void put_bytes(FILE *out, const uint8_t *p, size_t n)
{
	fputc('{', out);
	for (size_t i = 0; i < n; i++)
		fprintf(out, "%s%u", i ? "," : "", p[i]);
	fputc('}', out);
}

static void put_names(FILE *out, const struct weft_site_table *t, int n)
{
	fprintf(out, "static const char names%d[] =\n", n);
	for (uint32_t i = 0; i < t->names_len; i += (uint32_t)strlen(t->names + i) + 1)
		fprintf(out, "\t\"%s\\0\"\n", t->names + i);
	fprintf(out, "\t\"\";\n");
}

static void put_table(FILE *out, const struct weft_site_table *t, int n)
{
	put_names(out, t, n);
	fprintf(out, "static const struct weft_site site%d[] = {\n", n);
	for (uint32_t i = 0; i < t->count; i++) {
		const struct weft_site *s = &t->site[i];

		fprintf(out, "\t{0x%x,%u,%u,%u,%u,%u,0x%x,", s->rva, s->before, s->after,
			s->rip_disp, s->flags, s->name, s->func);
		put_bytes(out, s->orig, 2u + s->before + s->after);
		fprintf(out, "}, /* %s */\n", t->names + s->name);
	}
	fprintf(out, "};\n");
	if (t->left_count)
		fprintf(out, "static const struct weft_site_left left%d[] = {\n", n);
	for (uint32_t i = 0; i < t->left_count; i++)
		fprintf(out, "\t{0x%x,%u,%u}, /* %s */\n", t->left[i].rva,
			t->left[i].name, t->left[i].reason, t->names + t->left[i].name);
	if (t->left_count)
		fprintf(out, "};\n");
}

static void put_head(FILE *out, const struct weft_site_table *t, int n)
{
	fprintf(out, "\t{\"%s\", ", t->soname);
	put_bytes(out, t->build_id, t->build_id_len);
	fprintf(out, ", %u, %u, site%d, %u, ", t->build_id_len, t->count, n,
		t->left_count);
	if (t->left_count)
		fprintf(out, "left%d", n);
	else
		fprintf(out, "0");
	fprintf(out, ", %u, %u, names%d},\n", t->excluded, t->names_len, n);
}

static int find(const char *path, struct weft_site_table *ret)
{
	struct weft_image img;
	int r = weft_image_load(path, &img);

	if (r)
		return r;
	r = weft_finder_run(&img, ret);
	weft_image_unload(&img);
	return r;
}

int main(int argc, char **argv)
{
	struct weft_site_table table[8];
	int n = argc - 2;

	if (n < 1 || n > 8) {
		fprintf(stderr, "usage: weft-sitegen OUT.c DSO...\n");
		return 2;
	}
	for (int i = 0; i < n; i++) {
		int r = find(argv[2 + i], &table[i]);

		if (r) {
			fprintf(stderr, "weft-sitegen: %s: %s\n", argv[2 + i],
				strerror(-r));
			return 1;
		}
	}
	FILE *out = fopen(argv[1], "w");

	if (!out) {
		fprintf(stderr, "weft-sitegen: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	fprintf(out, "/* Made by weft-sitegen; see interpose/sites.h. */\n"
		     "#include \"interpose/sites.h\"\n");
	for (int i = 0; i < n; i++)
		put_table(out, &table[i], i);
	fprintf(out, "const struct weft_site_table weft_site_tables[] = {\n");
	for (int i = 0; i < n; i++)
		put_head(out, &table[i], i);
	fprintf(out, "};\nconst unsigned weft_site_table_count = %d;\n", n);
	if (ferror(out) | fclose(out)) {
		fprintf(stderr, "weft-sitegen: %s: write error\n", argv[1]);
		remove(argv[1]);
		return 1;
	}
	for (int i = 0; i < n; i++) {
		uint32_t nv = 0;

		for (uint32_t k = 0; k < table[i].count; k++)
			nv += table[i].site[k].flags & WEFT_SITE_NO_VECTOR;
		printf("%s: %u sites, %u without vectors, %u left, %u excluded\n",
			table[i].soname, table[i].count, nv, table[i].left_count,
			table[i].excluded);
		for (uint32_t k = 0; k < table[i].left_count; k++)
			printf("  left: %s\n", table[i].names + table[i].left[k].name);
		weft_finder_free(&table[i]);
	}
	return 0;
}
