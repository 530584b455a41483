/*
 * thunk.S - where every patched site arrives.
 *
 * In: the system call's registers, and r11 = the address of the slot's own syscall
 * instruction ("raw"). Out: to raw, so that the kernel makes the call, with every
 * register as it was; or to raw + 2 with the result in rax. Either way nothing but
 * rax, rcx and r11 has changed, as after a real syscall: general registers are kept
 * on the stack below the caller's red zone, vector registers are not touched by this
 * code nor by the C behind it (-mgeneral-regs-only), and weft_park keeps them when the
 * fiber really stops. The arithmetic flags are the one thing the kernel keeps and we do
 * not: compilers take every asm statement to change them, libc's hand-written sites
 * test rax anew, and POPF would cost more than all the rest here.
 *
 * Going raw uses no stack at the moment of the system call, so the children of
 * clone and vfork find nothing of ours on theirs.
 */
#include "../runtime/arch/x86_64/context.h"

	.text

	.globl	weft_site_entry
	.hidden	weft_site_entry
	.type	weft_site_entry, @function
	.p2align 5
weft_site_entry:
	.cfi_startproc
	.cfi_def_cfa %rsp, 0
	.cfi_register %rip, %r11
	cmpq	$WEFT_SYSCALL_TABLE_SIZE, %rax
	jae	1f
	leaq	weft_syscall_class(%rip), %rcx
	cmpb	$0, (%rcx,%rax)
	je	1f
	leaq	-WEFT_RED_ZONE(%rsp), %rsp
	.cfi_adjust_cfa_offset WEFT_RED_ZONE
	pushq	%r11
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rip, 0
	leaq	WEFT_RED_ZONE + 8(%rsp), %rcx
	pushq	%rcx
	.cfi_adjust_cfa_offset 8
	pushq	$0
	.cfi_adjust_cfa_offset 8
	pushq	%r11
	.cfi_adjust_cfa_offset 8
	pushq	%rax
	.cfi_adjust_cfa_offset 8
	pushq	%rdi
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rdi, 0
	pushq	%rsi
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rsi, 0
	pushq	%rdx
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rdx, 0
	pushq	%r10
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r10, 0
	pushq	%r8
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r8, 0
	pushq	%r9
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r9, 0
	pushq	%rbx
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rbx, 0
	pushq	%rbp
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rbp, 0
	pushq	%r12
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r12, 0
	pushq	%r13
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r13, 0
	pushq	%r14
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r14, 0
	pushq	%r15
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r15, 0
	movq	%rsp, %rdi
	movq	%rsp, %rbx
	.cfi_def_cfa_register %rbx
	andq	$-16, %rsp
	cld
	call	weft_dispatch		/* sets regs->rax, and regs->raw past the syscall */
	movq	%rbx, %rsp
	.cfi_def_cfa_register %rsp
	popq	%r15
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r15
	popq	%r14
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r14
	popq	%r13
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r13
	popq	%r12
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r12
	popq	%rbp
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rbp
	popq	%rbx
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rbx
	popq	%r9
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r9
	popq	%r8
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r8
	popq	%r10
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r10
	popq	%rdx
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rdx
	popq	%rsi
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rsi
	popq	%rdi
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rdi
	popq	%rax
	.cfi_adjust_cfa_offset -8
	popq	%r11
	.cfi_adjust_cfa_offset -8
	.cfi_register %rip, %r11
	leaq	WEFT_RED_ZONE + 24(%rsp), %rsp	/* mask, the saved rsp and rip */
	.cfi_adjust_cfa_offset -(WEFT_RED_ZONE + 24)
1:	jmp	*%r11
	.cfi_endproc
	.size	weft_site_entry, . - weft_site_entry

/*
 * long weft_native_clone(struct weft_regs *child %rdi, const struct weft_regs *call %rsi,
 *	uintptr_t gs %rdx)
 * The clone or clone3 of `call`, made by the kernel for real, by a carrier. The
 * child must not keep the carrier's GS base: it gets `gs`, or for 0 that of nobody, and
 * then the signal mask in `child->mask`. It continues with the registers of `child`,
 * which lie on its own stack, like a fiber's first instruction.
 */
	.globl	weft_native_clone
	.hidden	weft_native_clone
	.type	weft_native_clone, @function
	.p2align 4
weft_native_clone:
	.cfi_startproc
	pushq	%r12
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r12, 0
	pushq	%r13
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r13, 0
	movq	%rdi, %r12
	movq	%rdx, %r13
	movq	WEFT_REGS_RAX(%rsi), %rax
	movq	WEFT_REGS_RDI(%rsi), %rdi
	movq	WEFT_REGS_RDX(%rsi), %rdx
	movq	WEFT_REGS_R10(%rsi), %r10
	movq	WEFT_REGS_R8(%rsi), %r8
	movq	WEFT_REGS_R9(%rsi), %r9
	movq	WEFT_REGS_RSI(%rsi), %rsi
	syscall
	testq	%rax, %rax
	je	1f
	popq	%r13
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r13
	popq	%r12
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r12
	ret
1:	.cfi_undefined %rip
	movq	%r12, %rsp
	cmpl	$2, weft_bases(%rip)		/* WEFT_BASES_INSTRUCTIONS */
	jne	2f
	wrgsbase %r13
	jmp	3f
2:	movq	%r13, %rdi
	call	weft_set_gs_slow
3:	movl	$2, %edi			/* SIG_SETMASK */
	leaq	WEFT_REGS_MASK(%rsp), %rsi
	xorl	%edx, %edx
	movl	$8, %r10d
	movl	$14, %eax			/* rt_sigprocmask */
	subq	$WEFT_RED_ZONE, %rsp		/* a handler's frame goes below */
	syscall
	addq	$WEFT_RED_ZONE, %rsp
	jmp	weft_context_start_clone
	.cfi_endproc
	.size	weft_native_clone, . - weft_native_clone

	.section .note.GNU-stack, "", @progbits
