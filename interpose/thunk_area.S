/*
 * thunk_area.S - room for the thunks, and the one unwind entry for all of them.
 *
 * Slots are WEFT_SLOT_SIZE bytes, filled by sites.c. The section is whole pages,
 * aligned and padded, so that no other code of weft shares one: while they are
 * being written they are not executable. What is not a thunk is int3.
 *
 * Unwinding (see sites.h): a thunk has no frame, CFA = rsp. It is a signal frame,
 * because what follows it in the caller is the address *after* an instruction
 * that is no call: an unwinder must look that one up as it is, not less one. The
 * return address is the last word of the slot the pc is in, and as pc is column
 * 16 itself, one expression finds it for every slot:
 *	*((pc & -128) + 120)
 */
#define SLOTS 768

	.section .weft_thunks, "ax", @progbits
	.balign	4096
	.globl	weft_thunk_area
	.hidden	weft_thunk_area
	.type	weft_thunk_area, @function
	.cfi_startproc simple
	.cfi_signal_frame
	.cfi_def_cfa rsp, 0
	.cfi_same_value rax
	.cfi_same_value rbx
	.cfi_same_value rcx
	.cfi_same_value rdx
	.cfi_same_value rsi
	.cfi_same_value rdi
	.cfi_same_value rbp
	.cfi_same_value r8
	.cfi_same_value r9
	.cfi_same_value r10
	.cfi_same_value r11
	.cfi_same_value r12
	.cfi_same_value r13
	.cfi_same_value r14
	.cfi_same_value r15
	/* DW_CFA_val_expression r16: breg16 0; const1s -128; and; plus_uconst 120; deref */
	.cfi_escape 0x16, 16, 8, 0x80, 0, 0x09, 0x80, 0x1a, 0x23, 120, 0x06
weft_thunk_area:
	.fill	SLOTS * 128, 1, 0xcc
	.cfi_endproc
	.size	weft_thunk_area, . - weft_thunk_area

	/* One page more, to find out whether written pages may be executable again. */
	.globl	weft_thunk_probe
	.hidden	weft_thunk_probe
	.type	weft_thunk_probe, @function
weft_thunk_probe:
	.fill	4096, 1, 0xcc
	.size	weft_thunk_probe, . - weft_thunk_probe

	.section .note.GNU-stack, "", @progbits
