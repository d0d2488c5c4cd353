package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	consul "github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/host"
)

// noticeTime is the longest time until a component notices that the store was restored from an older backup. It is
// several times the TTL of a session. Without a decision since the backup, the loss may go unnoticed.
const noticeTime = 15 * time.Second

// faultsAfterRestore is the time after a restore of the store in which new faults begin. After that, no fault begins
// until the store is up to date again. Until it is, few decisions are made, and volumes with bounded leases are fenced.
const faultsAfterRestore = 4 * time.Second

// restorer restores the store from an older backup, and recovers it.
type restorer struct {
	*scene
	noneLost sync.RWMutex // locked while no host may be lost
	quiet    sync.RWMutex // locked while no fault may begin

	mu        sync.Mutex
	recovered int
	over      []func()
	ended     ended
	raised    []witness.Raised
}

// restoreBackup takes a backup of Consul, and restores Consul from it after the duration of the fault, while everything
// else runs. When the faults that have begun are over, an operator updates the store. No host is lost meanwhile,
// because the recovery waits for the records of all hosts.
//
// Changes that were acknowledged after the backup and that no agent has recorded are lost. The histories of names and
// leases record this (RestoreBackup). Before the restore, rememberEnded keeps the operations that have ended, because
// the store forgets the losses that promotions announced in them.
func (r *restorer) restoreBackup(t testing.TB, f Fault) {
	r.noneLost.Lock()
	defer r.noneLost.Unlock()
	defer r.parts.reserve("consul")()
	r.Consul.AwaitLeader()
	from := time.Now()
	backup := r.Consul.Snapshot()
	to := time.Now()
	time.Sleep(f.Duration)
	var before int
	var lost []string
	r.whilePaused(t, r.Controls, func() {
		r.rememberEnded(t)
		was := r.decided(t)
		before = r.recoveries()
		at := time.Now()
		r.mu.Lock()
		r.over = append(r.over, r.leases.RestoreBackup(from, to, at), r.names.RestoreBackup(from, to, at))
		r.mu.Unlock()
		r.Consul.Restore(backup)
		lost = differs(was, r.decided(t))
	})
	wait(t.Context(), faultsAfterRestore)
	r.quiet.Lock() // no fault may begin: an operator does not recover a store while nodes are unreachable
	defer r.quiet.Unlock()
	for start := time.Now(); r.recoveries() == before &&
		time.Since(start) < noticeTime; time.Sleep(100 * time.Millisecond) {
		if err := r.recover(t.Context(), t); err != nil {
			t.Logf("recovery: %v", err)
		}
	}
	host.Await(t, "the store is up to date", func() error {
		err := r.recover(t.Context(), t)
		t.Logf("recovery: %v", err)
		return err
	})
	switch {
	case r.recoveries() > before:
	case len(lost) > 0:
		t.Errorf("the store lost %d records, and no component noticed: %.1000q", len(lost), lost)
	default:
		r.report.count("stores restored without a change")
		r.endRestore()
	}
}

// decided returns the records in Consul about decisions and the number of decisions, by their keys. No
// replica runs meanwhile, so only another process can change them.
func (r *restorer) decided(t testing.TB) map[string]string {
	out := map[string]string{}
	for _, kind := range []string{"names", "datasets", "leases", "home", "snapshots", "trash", "rev"} {
		list, _, err := r.Consul.Client().KV().List("drover/data/"+kind+"/",
			&consul.QueryOptions{RequireConsistent: true})
		assert.NoError(t, err)
		for _, e := range list {
			out[e.Key] = string(e.Value)
		}
	}
	if len(out) == 0 {
		t.Error("nothing is in the store")
	}
	return out
}

// differs returns the keys whose values differ between two sets of records.
func differs(was, is map[string]string) (keys []string) {
	for key, v := range was {
		if now, there := is[key]; !there || now != v {
			keys = append(keys, key)
		}
	}
	for key := range is {
		if _, there := was[key]; !there {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// awaitFaultsAllowed waits while no fault may begin.
func (r *restorer) awaitFaultsAllowed() {
	r.quiet.RLock()
	defer r.quiet.RUnlock()
}

// whilePaused calls do while the replicas are paused.
func (r *restorer) whilePaused(t testing.TB, replicas []*cluster.Control, do func()) {
	if len(replicas) == 0 {
		do()
		return
	}
	c := replicas[0]
	defer r.parts.reserve(c.Host.Dir)()
	c.Pause(t)
	defer c.Resume(t)
	r.whilePaused(t, replicas[1:], do)
}

// rememberEnded keeps the recorded operations that have ended, before the store forgets them.
func (r *restorer) rememberEnded(t testing.TB) {
	list, _, err := r.Consul.Client().KV().List("drover/data/operations/",
		&consul.QueryOptions{RequireConsistent: true})
	assert.NoError(t, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range list {
		var op dataset.Operation
		assert.NoErrorf(t, json.Unmarshal(e.Value, &op), "%s", e.Key)
		r.ended[op.ID] = op
	}
}

func (r *restorer) recoveries() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.recovered
}

// endRestore records in the histories that answers no longer come from a restored store.
func (r *restorer) endRestore() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, over := range r.over {
		over()
	}
}

// watchStore is the operator who updates the restored store whenever an agent does not trust it. An agent that was
// paused may notice the restore late.
func (r *restorer) watchStore(ctx context.Context, t testing.TB) {
	for ; ctx.Err() == nil; wait(ctx, time.Second) {
		r.mu.Lock()
		back := len(r.over) > 0
		r.mu.Unlock()
		if back {
			_ = r.recover(ctx, t)
		}
	}
}

// recover updates the store if necessary. The error says why that is not possible yet, for example because a node
// is unreachable.
func (r *restorer) recover(ctx context.Context, t testing.TB) error {
	defer r.parts.reserve("recovery")()
	for _, c := range r.Controls {
		if again, err := r.recoverAt(ctx, t, c); err != nil {
			wait(ctx, 300*time.Millisecond)
			return err
		} else if again {
			return errors.New("it was brought up to date just now")
		}
	}
	return nil
}

// recoverAt updates the store through one replica. It reports whether decisions were halted.
func (r *restorer) recoverAt(ctx context.Context, t testing.TB, replica *cluster.Control) (halted bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := replica.Client(t)
	defer c.Close()
	found, err := c.Recover(ctx, api.Recover{})
	if err != nil || found.Halted == "" {
		return false, err
	}
	if len(found.SilentNodes) > 0 {
		return true, fmt.Errorf("nodes %v do not report", found.SilentNodes)
	}
	var raised []witness.Raised
	for _, d := range found.Differences {
		t.Logf("recovery: %+v", d)
		var state, node string
		var epoch uint64
		n, _ := fmt.Sscanf(d.OnAgents, "%s epoch %d on %s", &state, &epoch, &node)
		keepsEpoch := []api.RecordAction{api.RecordCopies, api.RecordSnapshots, api.RecordForgotten, api.RecordMissing}
		if n == 3 && !slices.Contains(keepsEpoch, d.Action) {
			raised = append(raised, witness.Raised{Dataset: d.Dataset.String(), Epoch: epoch + 1, Node: node})
		}
	}
	// The request below may take effect even if its answer is lost.
	r.mu.Lock()
	r.raised = append(r.raised, raised...)
	r.mu.Unlock()
	if _, err := c.Recover(ctx, api.Recover{Digest: found.Digest}); err != nil {
		return true, err
	}
	r.report.count("recoveries")
	r.mu.Lock()
	r.recovered++
	r.mu.Unlock()
	r.endRestore()
	return true, nil
}

// announcedBy returns the operations that announced losses, including those that the store has forgotten.
func (r *restorer) announcedBy(now []dataset.Operation) (all []dataset.Operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, op := range now {
		r.ended[op.ID] = op
	}
	for _, op := range r.ended {
		of := slices.ContainsFunc(r.volumes, func(v *volume) bool { return v.id == op.DatasetID })
		if of && op.State == dataset.OpDone && op.Loss != nil && op.Loss.UnreachableIndex != 0 {
			all = append(all, op)
		}
	}
	return all
}

// ended maps UUIDs to operations that have ended.
type ended map[uuid.UUID]dataset.Operation
