/*
 * signal.S - the few instructions around signal handlers that C cannot say.
 */
#include "context.h"

	.text

/*
 * The restorer of weft's first-level handlers. Unwinders and debuggers recognise
 * a signal frame by exactly these bytes.
 */
	.globl	weft_restore_rt
	.hidden	weft_restore_rt
	.type	weft_restore_rt, @function
	.p2align 4
	nop
weft_restore_rt:
	.byte	0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00	/* mov $15, %rax */
	.byte	0x0f, 0x05					/* syscall */
	.size	weft_restore_rt, . - weft_restore_rt

/*
 * Where the kernel resumes a fiber that was interrupted at an arbitrary
 * instruction: rdi = struct async_frame on the fiber's stack. Runs the handlers
 * as ordinary code, then returns to the interrupted instruction.
 *
 * weft_signals_async leaves the frame ready for rt_sigreturn on the carrier it
 * ran on. A kick between there and the system call must not be lost and must not
 * let the fiber migrate: inside [tail, tail_end) the kick handler continues at
 * `again`, with rbx still pointing at the frame.
 */
	.globl	weft_signal_trampoline
	.hidden	weft_signal_trampoline
	.type	weft_signal_trampoline, @function
	.globl	weft_signal_again
	.hidden	weft_signal_again
	.globl	weft_signal_tail
	.hidden	weft_signal_tail
	.globl	weft_signal_tail_end
	.hidden	weft_signal_tail_end
	.p2align 4
weft_signal_trampoline:
	.cfi_startproc
	.cfi_signal_frame
	/* The interrupted registers are in the ucontext at rbx (struct sigcontext
	   starts at +40: r8..r15 rdi rsi rbp rbx rdx rax rcx rsp rip). */
	.cfi_escape 0x0f, 0x04, 0x73, 0xa0, 0x01, 0x06		/* CFA = *(rbx+160) */
	.cfi_escape 0x10, 0x10, 0x03, 0x73, 0xa8, 0x01		/* rip at rbx+168 */
	.cfi_escape 0x10, 0x07, 0x03, 0x73, 0xa0, 0x01		/* rsp at rbx+160 */
	.cfi_escape 0x10, 0x06, 0x03, 0x73, 0xf8, 0x00		/* rbp at rbx+120 */
	.cfi_escape 0x10, 0x03, 0x03, 0x73, 0x80, 0x01		/* rbx at rbx+128 */
	.cfi_escape 0x10, 0x0c, 0x03, 0x73, 0xc8, 0x00		/* r12 at rbx+72 */
	.cfi_escape 0x10, 0x0d, 0x03, 0x73, 0xd0, 0x00		/* r13 at rbx+80 */
	.cfi_escape 0x10, 0x0e, 0x03, 0x73, 0xd8, 0x00		/* r14 at rbx+88 */
	.cfi_escape 0x10, 0x0f, 0x03, 0x73, 0xe0, 0x00		/* r15 at rbx+96 */
	movq	%rdi, %rbx
weft_signal_again:
	movq	%rbx, %rdi
	cld
	call	weft_signals_async		/* returns the fiber */
weft_signal_tail:
	movb	$0, WEFT_FIBER_IN_WEFT(%rax)
	cmpl	$0, WEFT_FIBER_ATTENTION(%rax)
	jne	weft_signal_again
	movq	%rbx, %rsp
	movl	$15, %eax
	syscall
weft_signal_tail_end:
	ud2
	.cfi_endproc
	.size	weft_signal_trampoline, . - weft_signal_trampoline

/*
 * void weft_call_handler(handler %rdi, sig %esi, info %rdx, uc %rcx, stack %r8):
 * handler(sig, info, uc), on another stack when r8 is not 0.
 */
	.globl	weft_call_handler
	.hidden	weft_call_handler
	.type	weft_call_handler, @function
	.p2align 4
weft_call_handler:
	.cfi_startproc
	pushq	%rbp
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rbp, 0
	movq	%rsp, %rbp
	.cfi_def_cfa_register %rbp
	movq	%rdi, %rax
	testq	%r8, %r8
	cmovneq	%r8, %rsp
	andq	$-16, %rsp
	movl	%esi, %edi
	movq	%rdx, %rsi
	movq	%rcx, %rdx
	call	*%rax
	leave
	.cfi_def_cfa %rsp, 8
	ret
	.cfi_endproc
	.size	weft_call_handler, . - weft_call_handler

/*
 * long weft_sys_interruptible(const int *attention, long nr, const long args[6])
 * A kick that lands in [begin, end) continues at `out`: the word was looked at
 * before the signal, the call has not started, and must not.
 */
	.globl	weft_sys_interruptible
	.hidden	weft_sys_interruptible
	.type	weft_sys_interruptible, @function
	.globl	weft_interruptible_begin
	.hidden	weft_interruptible_begin
	.globl	weft_interruptible_end
	.hidden	weft_interruptible_end
	.globl	weft_interruptible_out
	.hidden	weft_interruptible_out
	.p2align 4
weft_sys_interruptible:
	.cfi_startproc
	movq	%rsi, %rax
	movq	%rdi, %rcx
	movq	%rdx, %r11
	movq	0(%r11), %rdi
	movq	8(%r11), %rsi
	movq	16(%r11), %rdx
	movq	24(%r11), %r10
	movq	32(%r11), %r8
	movq	40(%r11), %r9
weft_interruptible_begin:
	cmpl	$0, (%rcx)
	jne	weft_interruptible_out
	syscall
weft_interruptible_end:
	ret
weft_interruptible_out:
	movq	$-4, %rax		/* -EINTR */
	ret
	.cfi_endproc
	.size	weft_sys_interruptible, . - weft_sys_interruptible

	.section .note.GNU-stack, "", @progbits
