/* report.h - WEFT_STATS: when the statistics are written, and where. */
#pragma once
#include "options.h"

/* At activation: arranges what the option asks for. */
void weft_report_start(const struct weft_options *options);
