/* Answers CPUID with some instructions left out, at native speed: for hidden.py, which puts UD2 in the place of CPUID
 * in a copy of a runtime. UD2 raises SIGILL; the handler executes the real CPUID and clears bits of leaves 1 and 7
 * (Intel SDM, volume 2A, CPUID): always AMX, and what HIDDEN_LEVEL says. LD_PRELOAD loads this before any runtime asks. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define BIT(n) (1u << (n))

static int level; /* 1 hides VNNI as well, 2 AVX-512, 3 AVX2 and FMA, 4 AVX */

static void clear_features(unsigned leaf, unsigned subleaf, unsigned *a, unsigned *b, unsigned *c, unsigned *d) {
  if (leaf == 1) {
    if (level >= 3) *c &= ~(BIT(12) | BIT(29)); /* FMA, F16C */
    if (level >= 4) *c &= ~BIT(28);             /* AVX */
  } else if (leaf == 7 && subleaf == 0) {
    *d &= ~(BIT(22) | BIT(24) | BIT(25)); /* AMX_BF16, AMX_TILE, AMX_INT8 */
    if (level >= 1) {
      *c &= ~BIT(11); /* AVX512_VNNI */
      *d &= ~BIT(23); /* AVX512_FP16, which no processor without VNNI has */
    }
    if (level >= 2) {
      /* AVX512 F, DQ, IFMA, PF, ER, CD, BW, VL; then VBMI, VBMI2, BITALG, VPOPCNTDQ; then 4VNNIW, 4FMAPS, VP2INTERSECT */
      *b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
      *c &= ~(BIT(1) | BIT(6) | BIT(12) | BIT(14));
      *d &= ~(BIT(2) | BIT(3) | BIT(8));
    }
    if (level >= 3) *b &= ~BIT(5); /* AVX2 */
  } else if (leaf == 7 && subleaf == 1) {
    *a &= ~BIT(21); /* AMX_FP16 */
    *d &= ~BIT(8);  /* AMX_COMPLEX */
    if (level >= 1) {
      *a &= ~(BIT(4) | BIT(5));           /* AVX_VNNI, AVX512_BF16 */
      *d &= ~(BIT(4) | BIT(5) | BIT(10)); /* AVX_VNNI_INT8, AVX_NE_CONVERT, AVX_VNNI_INT16 */
    }
  }
}

static void answer(int number, siginfo_t *info, void *context) {
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  const unsigned char *at = (const unsigned char *)registers[REG_RIP];
  unsigned leaf = registers[REG_RAX], subleaf = registers[REG_RCX], a, b, c, d;
  if (at[0] != 0x0f || at[1] != 0x0b) abort();  /* a real illegal instruction: one that was hidden is executed */
  __cpuid_count(leaf, subleaf, a, b, c, d);
  clear_features(leaf, subleaf, &a, &b, &c, &d);
  registers[REG_RAX] = a;
  registers[REG_RBX] = b;
  registers[REG_RCX] = c;
  registers[REG_RDX] = d;
  registers[REG_RIP] += 2;
}

/* Python's faulthandler would take SIGILL for itself: the first handler, ours, stays. */
int sigaction(int number, const struct sigaction *action, struct sigaction *old) {
  static int (*libc_sigaction)(int, const struct sigaction *, struct sigaction *);
  static int installed;
  if (!libc_sigaction) *(void **)&libc_sigaction = dlsym(RTLD_NEXT, "sigaction");
  if (number == SIGILL && installed) {
    if (old) memset(old, 0, sizeof *old);
    return 0;
  }
  installed |= number == SIGILL;
  return libc_sigaction(number, action, old);
}

__attribute__((constructor)) static void install(void) {
  struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
  const char *text = getenv("HIDDEN_LEVEL");
  level = text ? atoi(text) : 0;
  sigaction(SIGILL, &action, NULL);
}
