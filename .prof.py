import cProfile, pstats, sys, time, collections, trio
from tests.simulation import run
C=collections.Counter()
class I(trio.abc.Instrument):
    def before_task_step(self, task): C[task.name]+=1
orig=trio.run
run.trio.run=lambda *a,**k: orig(*a, instruments=[I()], **k)
r=run.simulate(1); print(r.simulated_s, r.requests)
print(*C.most_common(12), sep="\n")
run.trio.run=orig
p=cProfile.Profile(); p.enable(); run.simulate(1); p.disable()
pstats.Stats(p).sort_stats("tottime").print_stats(14)
pstats.Stats(p).sort_stats("cumtime").print_stats(45)
