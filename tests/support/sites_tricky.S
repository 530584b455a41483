/*
 * sites_tricky.S - a library of syscall sites made to be got wrong; its own
 * sites_test expects what each function's comment says. Never run.
 */
	.text

	.macro	fn name
	.globl	\name
	.type	\name, @function
	.p2align 4
\name:
.L\name:	/* for calls that do not go by the PLT */
	.cfi_startproc
	.endm
	.macro	end name
	.cfi_endproc
	.size	\name, . - \name
	.endm

	fn plain			/* 5 before */
	mov	$39, %eax
	syscall
	ret
	end plain

	fn two_before			/* 5 before: 2 + 3 */
	mov	%rdi, %rsi
	xor	%edx, %edx
	syscall
	ret
	end two_before

	fn jump_to_syscall		/* 6 after: something goes to the syscall itself */
	test	%edi, %edi
	je	1f
	mov	$39, %eax
1:	syscall
	cmp	$-4096, %rax
	ret
	end jump_to_syscall

	fn jump_to_before		/* 5 before: to the span's start is fine */
	test	%edi, %edi
	je	1f
	nop
1:	mov	$39, %eax
	syscall
	ret
	end jump_to_before

	fn no_room			/* left */
	test	%edi, %edi
	je	1f
	mov	$39, %eax
1:	syscall
	ret
	end no_room

	fn by_loop			/* left: loop and jrcxz are branches too */
	jrcxz	1f
	mov	$39, %eax
1:	syscall
	ret
	end by_loop

	fn from_elsewhere		/* left: another function's branch */
	mov	$39, %eax
inside:	syscall
	ret
	end from_elsewhere

	fn elsewhere
	test	%edi, %edi
	jne	inside
	ret
	end elsewhere

	fn by_switch			/* left: one arm is the syscall */
	lea	table(%rip), %rdx
	movslq	(%rdx, %rdi, 4), %rax
	add	%rdx, %rax
	jmp	*%rax
0:	mov	$39, %eax
1:	syscall
	ret
	end by_switch
	.section .rodata
	.balign	4
table:	.long	0b - table, 1b - table, 0b - table
	.long	0x7fffffff
	.text

	fn by_goto			/* left: a computed goto, relative to a label */
	lea	gotos(%rip), %rdx
	movslq	(%rdx, %rdi, 4), %rax
	lea	0f(%rip), %rcx
	add	%rcx, %rax
	jmp	*%rax
0:	mov	$39, %eax
1:	syscall
	ret
	end by_goto
	.section .rodata
gotos:	.long	0, 1b - 0b
	.long	0x7fffffff
	.text

	fn by_pointer			/* left: a table of addresses, by relocation */
	lea	pointers(%rip), %rdx
	jmp	*(%rdx, %rdi, 8)
0:	mov	$39, %eax
1:	syscall
	ret
	end by_pointer
	.section .data.rel.ro, "aw"
	.balign	8
pointers:
	.quad	0b, 1b
	.text

	fn by_address			/* left: its address is taken */
	lea	1f(%rip), %rax
	push	%rax
	mov	$39, %eax
1:	syscall
	ret
	end by_address

	fn by_unknown_sum		/* left: where does this go? */
	add	%rsi, %rdi
	jmp	*%rdi
	mov	$39, %eax
	syscall
	ret
	end by_unknown_sum

	fn tail_call			/* 5 before: a pointer from memory is no sum */
	mov	$39, %eax
	syscall
	add	%rsi, %rdi
	mov	(%rdi), %rax
	jmp	*%rax
	end tail_call

	.globl	landing_pad
	.type	landing_pad, @function
	.p2align 4
landing_pad:				/* left: the unwinder comes to the syscall */
	.cfi_startproc
	.cfi_personality 0x9b, personality
	.cfi_lsda 0x1b, lsda
	call	plain
2:	mov	$39, %eax
1:	syscall
	ret
	.cfi_endproc
	.size	landing_pad, . - landing_pad
	.section .gcc_except_table, "a"
lsda:	.byte	0xff, 0xff, 1
	.uleb128 4
	.uleb128 0, 2b - landing_pad, 1b - landing_pad, 0
	.section .data.rel.local, "aw"
	.balign	8
personality:
	.quad	plain
	.text

	fn stack			/* left: neither neighbour may move */
	push	%rbx
	syscall
	pop	%rbx
	ret
	end stack

	fn reads_stack			/* 4 before: rsp is only read */
	mov	(%rsp), %rdi
	syscall
	ret
	end reads_stack

	fn row				/* 6 after: a row of the unwind table between */
	mov	$39, %eax
	.cfi_def_cfa_offset 16
	syscall
	cmp	$-4096, %rax
	ret
	end row

	fn writes_rcx			/* left */
	mov	%rdi, %rcx
	syscall
	ret
	end writes_rcx

	fn reads_rcx			/* 3 before: it still holds the program's value */
	mov	%rcx, %r10
	syscall
	ret
	end reads_rcx

	fn reads_r11_after		/* left: afterwards it does not */
	ret
1:	syscall
	mov	%r11, %rdx
	ret
	end reads_r11_after

	fn twins			/* 5 before, 7 after: spans do not overlap */
	mov	$39, %eax
	syscall
	syscall
	nopl	0x200(%rax)
	ret
	end twins

	fn begins_with_endbr		/* left: endbr64 stays */
	endbr64
	syscall
	ret
	end begins_with_endbr

	fn rip_relative			/* 7 before, displacement at 3 */
	lea	table(%rip), %rdi
	syscall
	ret
	end rip_relative

	fn rip_relative_after		/* 7 after, displacement at 2 + 3 */
	ret
	syscall
	lea	table(%rip), %rdi
	ret
	end rip_relative_after

	fn sigreturn			/* excluded */
	mov	$15, %rax
	syscall
	end sigreturn

	fn with_vectors			/* 5 before, vectors */
	pxor	%xmm0, %xmm0
	mov	$39, %eax
	syscall
	ret
	end with_vectors

	fn with_x87			/* 5 before, vectors */
	fninit
	mov	$39, %eax
	syscall
	ret
	end with_x87

	fn with_cold_vectors		/* 5 before, vectors: in a part split off */
	test	%edi, %edi
	jne	.Lcold
	mov	$39, %eax
	syscall
back:	ret
	end with_cold_vectors
	fn cold
	movaps	%xmm0, (%rdi)
	jmp	back
	end cold

	fn known_callee			/* 5 before, vectors: its caller keeps xmm5 */
	mov	$39, %eax
	syscall
	ret
	end known_callee
	fn keeps_xmm5
	movups	(%rdi), %xmm5
	push	%rdi
	.cfi_adjust_cfa_offset 8
	call	.Lwrapper
	pop	%rdi
	.cfi_adjust_cfa_offset -8
	movups	%xmm5, (%rdi)
	ret
	end keeps_xmm5
	fn wrapper
	jmp	.Lknown_callee
	end wrapper

	fn unknown_callee		/* 5 before, no vectors: xmm5 is set anew */
	mov	$39, %eax
	syscall
	ret
	end unknown_callee
	fn sets_xmm5
	movups	(%rdi), %xmm5
	call	.Lunknown_callee
	pxor	%xmm5, %xmm5
	movups	%xmm5, (%rdi)
	ret
	end sets_xmm5

	/* as clone() has it: the FDE ends before the syscall; 3 after */
	fn ends_early
	mov	$56, %eax
	end ends_early
	syscall
	test	%rax, %rax
	ret

	.section .note.GNU-stack, "", @progbits
