import cProfile, pstats, sys, time, collections, trio
from tests.simulation import run
C=collections.Counter()
t=time.process_time(); r=run.simulate(57); print(time.process_time()-t, r.simulated_s, r.requests, r.operations)
class I(trio.abc.Instrument):
    def before_task_step(self, task): C[task.name]+=1
orig=trio.run
run.trio.run=lambda *a,**k: orig(*a, instruments=[I()], **k)
run.simulate(57)
print(*C.most_common(12), sep="\n")
run.trio.run=orig
p=cProfile.Profile(); p.enable(); run.simulate(57); p.disable()
pstats.Stats(p).sort_stats("cumtime").print_stats(60)
