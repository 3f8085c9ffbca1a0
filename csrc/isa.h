// Instruction sets: one source, compiled several times, the fastest the machine has chosen at load time.
#pragma once

// FASTDARTS_CLONES marks a kernel; the dynamic linker picks the clone by CPU features, never by CPU model name.
// What a kernel calls must be FASTDARTS_INLINE to be compiled for the clone it is called from.
#define FASTDARTS_INLINE inline __attribute__((always_inline))
#if defined(__x86_64__) && defined(__linux__)
#define FASTDARTS_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define FASTDARTS_CLONES
#endif
