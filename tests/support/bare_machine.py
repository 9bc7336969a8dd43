"""Run one routine on an image of memory in a bare machine of Bochs, an emulator of x86 CPUs.

There is no operating system. A ROM of a few instructions enters long mode, enables the tile registers (XCR0),
and calls the routine with its arguments. Then it writes a range of memory to port E9, which Bochs prints.
This needs `as` and `ld`, and Bochs 2.8 or later (3.0 was tried), built with AMX:

    ./configure --enable-cpu-level=6 --enable-x86-64 --enable-avx --enable-evex --enable-amx --with-nogui
    make bochs
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

BASE = 0x100000  # address of the image: a page of arguments, then the code, then data
CODE, DATA = 0x1000, 0x10000  # offsets in the image
N_ARGUMENTS = 15

ROM = """
.code16
.org 0
start:
    cli
    cld
    lgdtl %cs:(table - start)
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $8, $(0xf0000 + protected - start)
.code32
protected:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x8000, %edi              # page tables: a gigabyte, each address as itself
    xorl %eax, %eax
    movl $(0x3000/4), %ecx
    rep stosl
    movl $0x9003, 0x8000
    movl $0xa003, 0x9000
    movl $0xa000, %edi
    movl $0x83, %eax
    movl $512, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 1b
    movl $0x40620, %eax             # PAE, OSFXSR, OSXMMEXCPT, OSXSAVE
    movl %eax, %cr4
    movl $0x8000, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx          # EFER.LME
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl $0x80000033, %eax
    movl %eax, %cr0
    ljmpl $24, $(0xf0000 + long - start)
.code64
long:
    xorl %ecx, %ecx                 # XCR0: x87, SSE, AVX, AVX-512, tiles
    movl $0x600e7, %eax
    xorl %edx, %edx
    xsetbv
    movl $0x800000, %esp
    movl $0x100000, %ebx
    movl $14, %ecx                  # arguments 6 to 14 on the stack
2:  pushq (%rbx,%rcx,8)
    decl %ecx
    cmpl $5, %ecx
    jne 2b
    movq 0(%rbx), %rdi
    movq 8(%rbx), %rsi
    movq 16(%rbx), %rdx
    movq 24(%rbx), %rcx
    movq 32(%rbx), %r8
    movq 40(%rbx), %r9
    movl $0x101000, %eax
    call *%rax
    movl $0x100000, %ebx
    movq 120(%rbx), %rsi            # what to print, and how many bytes
    movq 128(%rbx), %rcx
    movw $0xe9, %dx
    rep outsb
    movw $0x8900, %dx
    leaq farewell(%rip), %rsi
    movl $8, %ecx
    rep outsb
    hlt
farewell: .ascii "Shutdown"
.align 8
segments: .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff, 0x00af9a000000ffff
table: .word 31
    .long 0xf0000 + segments - start
.code16
.org 0xfff0
    ljmp $0xf000, $0
.org 0x10000
"""
SETTINGS = """
cpu: model=sapphire_rapids, count=1, ips=1000000000, reset_on_triple_fault=0
memory: guest=64, host=64, block_size=8192
romimage: file={folder}/rom.bin, address=0xffff0000
vgaromimage: file={folder}/empty.bin
optramimage1: file={folder}/image.bin, address=0x100000
display_library: nogui
vga: extension=none
port_e9_hack: enabled=1
log: {folder}/bochs.log
panic: action=fatal
error: action=report
boot: disk
"""


def flat(code: bytes, symbol: str, address: int, folder: Path) -> bytes:
    """Return an object file's code, linked for `address`."""
    (folder / "code.o").write_bytes(code)
    options = [f"-Ttext={address:#x}", "-e", symbol, "--oformat", "binary"]
    subprocess.run(["ld", *options, "-o", folder / "code.bin", folder / "code.o"], check=True)
    return (folder / "code.bin").read_bytes()


def run(
    bochs: str, code: bytes, data: bytes, arguments: Sequence[int], result: tuple[int, int], folder: Path
) -> bytes:
    """Run a routine; return the bytes of a range of memory after it.

    Args:
        bochs: the path of the program.
        code: the routine, linked for BASE + CODE.
        data: the data at BASE + DATA.
        arguments: N_ARGUMENTS integers.
        result: the address of the range and its number of bytes.
        folder: a folder for files.
    """
    assert len(arguments) == N_ARGUMENTS and len(code) <= DATA - CODE
    image = struct.pack(f"<{N_ARGUMENTS + 2}q", *arguments, *result).ljust(CODE, b"\0") + code
    image = image.ljust(DATA, b"\0") + data
    (folder / "image.bin").write_bytes(image.ljust(-(-len(image) // 512) * 512, b"\0"))
    (folder / "empty.bin").write_bytes(bytes(32768))
    (folder / "rom.S").write_text(ROM)
    subprocess.run(["as", "--64", "-o", folder / "rom.o", folder / "rom.S"], check=True)
    link = ["ld", "-Ttext=0", "-e", "0", "--oformat", "binary"]
    subprocess.run([*link, "-o", folder / "rom.bin", folder / "rom.o"], check=True)
    (folder / "settings").write_text(SETTINGS.format(folder=folder))
    done = subprocess.run(
        [bochs, "-q", "-f", folder / "settings"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )
    log = (folder / "bochs.log").read_text(errors="replace")
    assert "Shutdown port" in log, log[-3000:]  # otherwise a fault ended it
    return done.stdout[-result[1] :]
