import collections, trio
from tests.simulation import run
C=collections.Counter()
class I(trio.abc.Instrument):
    def before_task_step(self, task): C[task.name.split("<locals>")[-1]]+=1
import trio as t
orig=t.run
def r(*a, **k): return orig(*a, instruments=[I()], **k)
run.trio.run=r
for s in (1,2): 
    x=run.simulate(s); print(x.simulated_s, x.operations, x.requests)
print(*C.most_common(40), sep="\n")
