"""Set before anything imports Triton or torch."""

import os

# Triton's kernels run in the interpreter, on the CPU
os.environ["TRITON_INTERPRET"] = "1"
# The networks are tiny: a second thread gains nothing, and beside other work torch's two wait for each other,
# spinning; tests that take 6 s take 120 then.
os.environ.setdefault("OMP_NUM_THREADS", "1")
