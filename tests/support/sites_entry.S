/*
 * sites_entry.S - stands in for thunk.S: weft_site_entry as a test wants it.
 *
 * weft_site_entry goes where sites_entry points, with nothing changed:
 * sites_entry_raw	the real system call
 * sites_entry_hook	sites_hook(slot, rax, args); it returns SITES_GO_RAW or a result
 * sites_entry_record	all registers into sites_seen, then back to sites_run
 */
	.text

	.globl	weft_site_entry
	.hidden	weft_site_entry
	.type	weft_site_entry, @function
	/* what the test program sees under other names is fixed here */
	.globl	sites_entry, sites_seen
	.protected sites_entry, sites_seen, sites_entry_raw
weft_site_entry:
	.cfi_startproc
	.cfi_signal_frame	/* pc may be our first byte */
	.cfi_def_cfa rsp, 0
	.cfi_register rip, r11
	jmp	*sites_entry(%rip)
	.cfi_endproc
	.size	weft_site_entry, . - weft_site_entry

	.globl	sites_entry_raw
	.type	sites_entry_raw, @function
sites_entry_raw:
	jmp	*%r11

	.globl	sites_entry_hook
	.type	sites_entry_hook, @function
sites_entry_hook:
	.cfi_startproc
	.cfi_def_cfa rsp, 0
	.cfi_register rip, r11
	lea	-128(%rsp), %rsp	/* the red zone */
	.cfi_def_cfa_offset 128
	push	%r11
	.cfi_def_cfa_offset 136
	.cfi_offset rip, -136
	pushfq
	.cfi_def_cfa_offset 144
	push	%rbp
	.cfi_def_cfa_offset 152
	.cfi_offset rbp, -152
	mov	%rsp, %rbp
	.cfi_def_cfa rbp, 152
	push	%rcx
	push	%rax
	push	%r9
	push	%r8
	push	%r10
	push	%rdx
	push	%rsi
	push	%rdi
	push	%rbx
	.cfi_offset rbx, -224
	mov	%rsp, %rbx		/* rbx: saved registers */
	cld
	lea	-4096(%rsp), %rsp
	and	$-64, %rsp
	xor	%ecx, %ecx		/* xrstor wants a clean header */
	.irp	off, 512, 520, 528, 536, 544, 552, 560, 568
	mov	%rcx, \off(%rsp)
	.endr
	mov	$0xe7, %eax		/* x87, SSE, AVX, AVX-512 */
	xor	%edx, %edx
	xsave	(%rsp)
	mov	16(%rbp), %rdi		/* raw */
	mov	56(%rbx), %rsi		/* rax: the number */
	lea	8(%rbx), %rdx		/* the six arguments */
	call	sites_hook@PLT
	mov	%rax, %rcx
	mov	$0xe7, %eax
	xor	%edx, %edx
	xrstor	(%rsp)
	mov	%rbx, %rsp
	pop	%rbx
	.cfi_same_value rbx
	pop	%rdi
	pop	%rsi
	pop	%rdx
	pop	%r10
	pop	%r8
	pop	%r9
	pop	%rax
	mov	16(%rbp), %r11
	cmp	$-99999, %rcx
	je	1f
	mov	%rcx, %rax
	lea	2(%r11), %r11
1:	mov	%r11, 16(%rbp)
	pop	%rcx
	pop	%rbp
	.cfi_def_cfa rsp, 144
	.cfi_same_value rbp
	popfq
	.cfi_def_cfa_offset 136
	pop	%r11
	.cfi_def_cfa_offset 128
	.cfi_register rip, r11
	lea	128(%rsp), %rsp
	.cfi_def_cfa_offset 0
	jmp	*%r11
	.cfi_endproc

/*
 * void sites_run(const struct sites_state *in, void *go): loads all registers and
 * the flags from *in, jumps to go; sites_entry_record stores them to sites_seen and
 * returns from sites_run. State: 16 general registers, flags, 16 ymm.
 */
	.globl	sites_run
	.type	sites_run, @function
sites_run:
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, sites_home(%rip)
	mov	%rsi, sites_go(%rip)
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovdqu	(192 + 32 * \n)(%rdi), %ymm\n
	.endr
	mov	56(%rdi), %rsp
	mov	128(%rdi), %rax
	push	%rax
	popfq
	mov	0(%rdi), %rax
	mov	8(%rdi), %rcx
	mov	16(%rdi), %rdx
	mov	24(%rdi), %rbx
	mov	32(%rdi), %rbp
	mov	40(%rdi), %rsi
	mov	64(%rdi), %r8
	mov	72(%rdi), %r9
	mov	80(%rdi), %r10
	mov	88(%rdi), %r11
	mov	96(%rdi), %r12
	mov	104(%rdi), %r13
	mov	112(%rdi), %r14
	mov	120(%rdi), %r15
	mov	48(%rdi), %rdi
	jmp	*sites_go(%rip)

	.globl	sites_entry_record
	.type	sites_entry_record, @function
sites_entry_record:
	mov	%rax, sites_seen+0(%rip)
	mov	%rcx, sites_seen+8(%rip)
	mov	%rdx, sites_seen+16(%rip)
	mov	%rbx, sites_seen+24(%rip)
	mov	%rbp, sites_seen+32(%rip)
	mov	%rsi, sites_seen+40(%rip)
	mov	%rdi, sites_seen+48(%rip)
	mov	%rsp, sites_seen+56(%rip)
	mov	%r8, sites_seen+64(%rip)
	mov	%r9, sites_seen+72(%rip)
	mov	%r10, sites_seen+80(%rip)
	mov	%r11, sites_seen+88(%rip)
	mov	%r12, sites_seen+96(%rip)
	mov	%r13, sites_seen+104(%rip)
	mov	%r14, sites_seen+112(%rip)
	mov	%r15, sites_seen+120(%rip)
	mov	sites_home(%rip), %rsp
	pushfq
	pop	%rax
	mov	%rax, sites_seen+128(%rip)
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovdqu	%ymm\n, sites_seen+(192 + 32 * \n)(%rip)
	.endr
	vzeroupper
	cld
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	ret

	.section .data.rel.ro, "aw"
	.balign	8
	.globl	sites_thunk_area, sites_thunk_probe, sites_entry_address
	.type	sites_thunk_area, @object
	.size	sites_thunk_area, 8
sites_thunk_area:
	.quad	weft_thunk_area
	.type	sites_thunk_probe, @object
	.size	sites_thunk_probe, 8
sites_thunk_probe:
	.quad	weft_thunk_probe
	.type	sites_entry_address, @object
	.size	sites_entry_address, 8
sites_entry_address:
	.quad	weft_site_entry

	.data
	.globl	sites_entry
	.type	sites_entry, @object
	.size	sites_entry, 8
sites_entry:
	.quad	sites_entry_raw
	.bss
	.balign 64
sites_home:
	.skip	8
sites_go:
	.skip	8
	.balign 64
	.globl	sites_seen
	.type	sites_seen, @object
	.size	sites_seen, 192 + 16 * 32
sites_seen:
	.skip	192 + 16 * 32
	.section .note.GNU-stack, "", @progbits
