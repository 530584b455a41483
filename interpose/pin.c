/* pin.c - weft.h: what programs that know weft may tell it. */
#include "../runtime/pin.h"

#include "enter.h"

void weft_pin(void);
void weft_unpin(void);

WEFT_EXPORT void weft_pin(void)
{
	struct fiber *f = weft_enter_fiber();

	if (f)
		weft_fiber_pin(WEFT_PIN_CALL, (uintptr_t)__builtin_return_address(0));
}

WEFT_EXPORT void weft_unpin(void)
{
	struct fiber *f = weft_enter_fiber();

	if (f)
		weft_fiber_unpin();
}
