import cProfile, pstats, sys
from tests.simulation.run import simulate
simulate(0)
p=cProfile.Profile(); p.enable()
for s in (1,2): simulate(s)
p.disable()
pstats.Stats(p).sort_stats(sys.argv[1] if len(sys.argv)>1 else "tottime").print_stats(35)
