#define FR_DOUBLES 2
#define FR_SWEEP lncc_baseline
#include "cpu/lncc_sweep.inl"
