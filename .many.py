import time, sys, multiprocessing
from tests.simulation import run
run.PATIENCE_S=20
def one(s):
    t=time.time(); r=run.simulate(s); return s, round(time.time()-t,1), r
if __name__=="__main__":
    a,b,j,limit=map(int,sys.argv[1:5])
    t0=time.time(); n=0; bad=0; sim=0; ops=ref=ack=0
    with multiprocessing.get_context("fork").Pool(j) as p:
        for s,d,r in p.imap_unordered(one, range(a,b)):
            n+=1; sim+=r.simulated_s; ops+=r.operations; ref+=r.refused; ack+=r.acked
            if r.failure or d>5: print(s, d, r.steps, r.failure[-300:].replace(chr(10),' | '), flush=True); bad+=bool(r.failure)
            if time.time()-t0>limit or bad>5: break
    print(n, "seeds", (time.time()-t0)/n, "s each", sim/604800/(time.time()-t0)*60, "weeks/min", ops/n, ref/n, ack/n)
