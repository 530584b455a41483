/*
 * switch.S - stack switching and a new fiber's first instruction.
 *
 * Contract of weft_switch(save %rdi, load %rsi): an ordinary call. Saved are what
 * the C ABI makes callee-saved: rbx rbp r12-r15, rsp, the MXCSR control bits and
 * the x87 control word. Not saved: caller-saved registers (dead), flags (DF is
 * clear at every call), vector registers (weft_park keeps those of a fiber that
 * came through a site), the signal mask (fibers' masks are virtual), FS base
 * (written by the scheduler, in C, only when it changes). The stack must be
 * 16-byte aligned at the call as for any function. A red zone cannot be live:
 * this is a call. Shadow stacks are refused at start-up (a switch would fault).
 */
#include "context.h"

	.text

	.globl	weft_switch
	.hidden	weft_switch
	.type	weft_switch, @function
	.p2align 5
weft_switch:
	.cfi_startproc
	endbr64
	pushq	%rbp
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rbp, 0
	pushq	%rbx
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rbx, 0
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
	subq	$8, %rsp
	.cfi_adjust_cfa_offset 8
	stmxcsr	(%rsp)
	fnstcw	4(%rsp)
	movw	$0, 6(%rsp)
	movq	(%rsp), %rax
	movq	%rsp, (%rdi)
	movq	%rsi, %rsp
	/* Loading them costs as much as the whole switch: only when they differ.
	   MXCSR's sticky exception flags differ often and belong to the thread too. */
	cmpq	(%rsp), %rax
	jne	1f
2:	addq	$8, %rsp
	.cfi_adjust_cfa_offset -8
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
	popq	%rbx
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rbx
	popq	%rbp
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rbp
	ret
	.cfi_def_cfa_offset 64
1:	ldmxcsr	(%rsp)
	fldcw	4(%rsp)
	jmp	2b
	.cfi_endproc
	.size	weft_switch, . - weft_switch

/*
 * First instruction of a fiber made by weft_context_make: r12 = fn, r13 = arg.
 * Nothing above: the return address is undefined, so that unwinders stop here.
 */
	.globl	weft_context_start
	.hidden	weft_context_start
	.type	weft_context_start, @function
	.p2align 4
weft_context_start:
	.cfi_startproc
	.cfi_undefined %rip
	movq	%r13, %rdi
	xorl	%ebp, %ebp
	call	*%r12
	ud2
	.cfi_endproc
	.size	weft_context_start, . - weft_context_start

/*
 * First instruction of a fiber made by clone or clone3: rsp points at a struct
 * weft_regs that lies below the red zone of the new stack. glibc's code after
 * the syscall has no CFI either at this point, so unwinders stop here too.
 */
	.globl	weft_context_start_clone
	.hidden	weft_context_start_clone
	.type	weft_context_start_clone, @function
	.p2align 4
weft_context_start_clone:
	.cfi_startproc
	.cfi_undefined %rip
	movq	WEFT_REGS_R15(%rsp), %r15
	movq	WEFT_REGS_R14(%rsp), %r14
	movq	WEFT_REGS_R13(%rsp), %r13
	movq	WEFT_REGS_R12(%rsp), %r12
	movq	WEFT_REGS_RBP(%rsp), %rbp
	movq	WEFT_REGS_RBX(%rsp), %rbx
	movq	WEFT_REGS_R9(%rsp), %r9
	movq	WEFT_REGS_R8(%rsp), %r8
	movq	WEFT_REGS_R10(%rsp), %r10
	movq	WEFT_REGS_RDX(%rsp), %rdx
	movq	WEFT_REGS_RSI(%rsp), %rsi
	movq	WEFT_REGS_RDI(%rsp), %rdi
	movq	WEFT_REGS_RAW(%rsp), %r11
	movq	WEFT_REGS_RSP(%rsp), %rsp
	addq	$2, %r11		/* past the thunk's own syscall */
	xorl	%eax, %eax
	jmp	*%r11
	.cfi_endproc
	.size	weft_context_start_clone, . - weft_context_start_clone

/*
 * long weft_clone_thread(flags %rdi, stack_top %rsi, fn %rdx, arg %rcx, child_tid %r8):
 * a bare kernel thread that calls fn(arg), which never returns. The child's FS and GS
 * base are its creator's until it sets its own.
 */
	.globl	weft_clone_thread
	.hidden	weft_clone_thread
	.type	weft_clone_thread, @function
	.p2align 4
weft_clone_thread:
	.cfi_startproc
	andq	$-16, %rsi
	movq	%rdx, -16(%rsi)
	movq	%rcx, -8(%rsi)
	subq	$16, %rsi
	xorl	%edx, %edx		/* parent_tid */
	movq	%r8, %r10		/* child_tid */
	xorl	%r8d, %r8d		/* tls */
	movl	$56, %eax		/* clone */
	syscall
	testq	%rax, %rax
	je	1f
	ret
1:	.cfi_undefined %rip
	xorl	%ebp, %ebp
	popq	%rdx
	popq	%rdi
	call	*%rdx
	ud2
	.cfi_endproc
	.size	weft_clone_thread, . - weft_clone_thread

/* int weft_fs_probe(void): 1, or 0 by way of the handler if it is an illegal instruction. */
	.globl	weft_fs_probe
	.hidden	weft_fs_probe
	.type	weft_fs_probe, @function
	.globl	weft_fs_probe_insn
	.hidden	weft_fs_probe_insn
	.globl	weft_fs_probe_fixup
	.hidden	weft_fs_probe_fixup
	.p2align 4
weft_fs_probe:
	.cfi_startproc
weft_fs_probe_insn:
	rdfsbase %rax
	wrfsbase %rax
	movl	$1, %eax
	ret
weft_fs_probe_fixup:
	xorl	%eax, %eax
	ret
	.cfi_endproc
	.size	weft_fs_probe, . - weft_fs_probe

/* int weft_load_user(const uint32_t *p, uint32_t *ret): see context.h. */
	.globl	weft_load_user
	.hidden	weft_load_user
	.type	weft_load_user, @function
	.globl	weft_load_user_insn
	.hidden	weft_load_user_insn
	.globl	weft_load_user_fixup
	.hidden	weft_load_user_fixup
	.p2align 4
weft_load_user:
	.cfi_startproc
weft_load_user_insn:
	movl	(%rdi), %eax
	movl	%eax, (%rsi)
	xorl	%eax, %eax
	ret
weft_load_user_fixup:
	movl	$-14, %eax		/* -EFAULT */
	ret
	.cfi_endproc
	.size	weft_load_user, . - weft_load_user

/* int weft_load_word(const uint64_t *p, uint64_t *ret): see context.h. */
	.globl	weft_load_word
	.hidden	weft_load_word
	.type	weft_load_word, @function
	.globl	weft_load_word_insn
	.hidden	weft_load_word_insn
	.p2align 4
weft_load_word:
	.cfi_startproc
weft_load_word_insn:
	movq	(%rdi), %rax
	movq	%rax, (%rsi)
	xorl	%eax, %eax
	ret
	.cfi_endproc
	.size	weft_load_word, . - weft_load_word

/*
 * int weft_cas_user(uint32_t *p, uint32_t *expected, uint32_t desired): as
 * __atomic_compare_exchange, 1 or 0; -EFAULT when the page cannot be written.
 */
	.globl	weft_cas_user
	.hidden	weft_cas_user
	.type	weft_cas_user, @function
	.globl	weft_cas_user_insn
	.hidden	weft_cas_user_insn
	.p2align 4
weft_cas_user:
	.cfi_startproc
	movl	(%rsi), %eax
weft_cas_user_insn:
	lock cmpxchgl %edx, (%rdi)
	movl	%eax, (%rsi)
	sete	%al
	movzbl	%al, %eax
	ret
	.cfi_endproc
	.size	weft_cas_user, . - weft_cas_user

/* int weft_copy_user(void *d, const void *s, size_t n): see context.h. */
	.globl	weft_copy_user
	.hidden	weft_copy_user
	.type	weft_copy_user, @function
	.globl	weft_copy_user_insn
	.hidden	weft_copy_user_insn
	.p2align 4
weft_copy_user:
	.cfi_startproc
	movq	%rdx, %rcx
weft_copy_user_insn:
	rep movsb
	xorl	%eax, %eax
	ret
	.cfi_endproc
	.size	weft_copy_user, . - weft_copy_user

	.section .note.GNU-stack, "", @progbits
