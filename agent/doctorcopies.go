package agent

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/agent/replication"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// checkCopy examines what is here of a dataset whose home is another node.
func (a *Agent) checkCopy(r *diagnosis, p *pool.Pool, e backends.Entry) {
	subject := "volume " + volumeName(e)
	k, kept := a.Cache.Copy(e.ID)
	switch {
	case e.Problem != "":
		r.Add(findings.Error, "dataset "+e.ID.String(), "", "the copy of %s in pool %s: %s", volumeOf(e), p.Name,
			e.Problem)
	case !kept:
		if !a.moveTable.Brings(e.ID) {
			r.Add(findings.Warning, "dataset "+e.ID.String(), "drover doctor --gc "+e.ID.String()+" destroys it",
				"lies in pool %s as a copy of %s but the store knows of none here: quarantined", p.Name, volumeOf(e))
		} else if !a.moveTable.IsActive(e.ID) {
			r.Add(findings.Info, subject, "",
				"a move that did not come to its end left a part of it in pool %s, for another try; it goes "+
					"after %s", p.Name, replication.KeepFailed)
		}
	case len(a.uses.Get(e.ID).IDs) > 0:
		r.Add(findings.Error, subject, "stop its containers here",
			"went on at another node (epoch %d ended here), but is in use here by %d: what they write is "+
				"kept as a superseded snapshot once they stop", k.Epoch, len(a.uses.Get(e.ID).IDs))
	case k.Kind == dataset.CopySuperseded:
		r.Add(findings.Warning, subject, "drover volume superseded ls",
			"the head of epoch %d was overtaken, and is kept in pool %s", k.Epoch, p.Name)
	}
}

// checkReplicas names the replicas that this node shall keep and does not.
func (a *Agent) checkReplicas(r *diagnosis) {
	for _, id := range a.Cache.CopyIDs() {
		k, kept := a.Cache.Copy(id)
		if !kept || k.Kind != dataset.CopyReplica || k.Record == nil {
			continue
		}
		subject := "volume " + k.Record.Volume
		if op := a.pools.One(k.Pool); op == nil || op.Gone {
			r.Add(findings.Error, subject, "bring back the disk of that pool (drover pool adopt PATH), or "+
				"drover node drain "+a.NodeName+" has another node keep it",
				"has a replica on record here that is nowhere: pool %s is not one of this node's", k.Pool)
		} else if why := a.replicas.Failure(id); why != "" {
			r.Add(findings.Warning, subject, "", "its replica here was not refreshed, which is tried again: %s", why)
		}
	}
}

func volumeName(e backends.Entry) string {
	if e.Record == nil {
		return e.ID.String()
	}
	return e.Record.Volume
}

// checkShown reports, for a mount that no container has, whether a user asked for it.
func (a *Agent) checkShown(r *diagnosis, id uuid.UUID, path string) bool {
	k, is := a.Cache.ShownBy(id)
	if is {
		r.Add(findings.Info, "mount "+path, "drover volume superseded mount "+k.Dataset.String()+" "+a.NodeName+
			" --off", "shows the head of volume %s that was overtaken, read-only, as somebody asked for",
			k.Record.Volume)
	}
	return is
}
