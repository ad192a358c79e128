"""`convmesh bench`: what one part of the program costs, measured, beside what it should cost."""
