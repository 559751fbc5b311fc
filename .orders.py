import collections
from tests.simulation import run
from p2pfs_peerd.orders import OrderRunner
C=collections.Counter()
o=OrderRunner._done
async def d(self, order):
    r=await o(self, order); C[type(order).__name__, type(r).__name__]+=1; return r
OrderRunner._done=d
for s in (1,16,12): r=run.simulate(s); print(s, r.failure[:300], r.digest, r.simulated_s, C); C.clear()
