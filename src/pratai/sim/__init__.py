"""The real cores over a fake clock, a lying network and dying processes, from one seed.

`python -m pratai.sim --seeds N` runs seeds; a seed that fails says so with a short story and fails
again in the same way. Chance lives in `World` alone and is drawn from its seed.
"""
