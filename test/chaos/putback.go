package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	consul "github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/witness"
)

// noticeTime is the longest time until a component notices that the store was restored from an older backup. It is
// several times the TTL of a session. Without a decision since the backup, the loss may go unnoticed.
const noticeTime = 15 * time.Second

// faultsAfterRestore is how long faults begin after the store was restored. Then they wait until the store is up to
// date again. Until then few decisions are made, and volumes with bounded leases are fenced.
const faultsAfterRestore = 4 * time.Second

// putBack restores Consul from a backup of a while before, while everything else runs. When the faults that have
// begun are over, an operator updates the store. No host is lost meanwhile, since the recovery would wait for
// what only that host knows.
//
// Changes that were acknowledged after the backup and that no agent has are lost. The histories of names and leases are
// told so. The announcements of promotions that ended in this time are remembered in the campaign.
func (k *Campaign) putBack(t testing.TB, f Fault) {
	k.noneLost.Lock()
	defer k.noneLost.Unlock()
	defer k.parts.reserve("consul")()
	k.Consul.AwaitLeader()
	from := time.Now()
	backup := k.Consul.Snapshot()
	to := time.Now()
	time.Sleep(f.For)
	var before int
	var lost []string
	k.whilePaused(t, k.Controls, func() {
		k.rememberEnded(t)
		was := k.decided(t)
		before = k.recoveries()
		at := time.Now()
		k.mu.Lock()
		k.over = append(k.over, k.leases.PutBack(from, to, at), k.names.PutBack(from, to, at))
		k.mu.Unlock()
		k.Consul.Restore(backup)
		lost = differs(was, k.decided(t))
	})
	rest(t.Context(), faultsAfterRestore)
	k.quiet.Lock() // no fault may begin: an operator does not recover a store while nodes are unreachable
	defer k.quiet.Unlock()
	for start := time.Now(); k.recoveries() == before &&
		time.Since(start) < noticeTime; time.Sleep(100 * time.Millisecond) {
		if err := k.recover(t.Context(), t); err != nil {
			t.Logf("recovery: %v", err)
		}
	}
	cluster.Await(t, "the store is up to date", func() error { return k.recover(t.Context(), t) })
	switch {
	case k.recoveries() > before:
	case len(lost) > 0:
		t.Errorf("the store went back by %d records, and nobody saw it: %.1000q", len(lost), lost)
	default:
		k.report.count("stores put back, and as they were")
		k.endRestore()
	}
}

// decided returns the records in Consul about decisions and the number of decisions, by their keys. No
// replica runs meanwhile, so only another process can change them.
func (k *Campaign) decided(t testing.TB) map[string]string {
	out := map[string]string{}
	for _, kind := range []string{"names", "datasets", "leases", "home", "snapshots", "trash", "rev"} {
		list, _, err := k.Consul.Client().KV().List("drover/data/"+kind+"/",
			&consul.QueryOptions{RequireConsistent: true})
		if err != nil {
			t.Error(err)
		}
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
func (k *Campaign) awaitFaultsAllowed() {
	k.quiet.RLock()
	defer k.quiet.RUnlock()
}

// whilePaused calls do while the replicas are paused.
func (k *Campaign) whilePaused(t testing.TB, replicas []*cluster.Control, do func()) {
	if len(replicas) == 0 {
		do()
		return
	}
	r := replicas[0]
	defer k.parts.reserve(r.Host.Dir)()
	r.Pause(t)
	defer r.Resume(t)
	k.whilePaused(t, replicas[1:], do)
}

// rememberEnded keeps the recorded operations that have ended, before the store forgets them.
func (k *Campaign) rememberEnded(t testing.TB) {
	list, _, err := k.Consul.Client().KV().List("drover/data/operations/",
		&consul.QueryOptions{RequireConsistent: true})
	if err != nil {
		t.Error(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range list {
		var op dataset.Operation
		if err := json.Unmarshal(e.Value, &op); err != nil {
			t.Errorf("%s: %v", e.Key, err)
		}
		k.ended[op.ID] = op
	}
}

func (k *Campaign) recoveries() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.recovered
}

// endRestore tells the histories that answers no longer come from a restored store.
func (k *Campaign) endRestore() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, over := range k.over {
		over()
	}
}

// watchStore is the operator who updates the restored store whenever an agent does not trust it. An agent that was
// paused may notice the restore late.
func (k *Campaign) watchStore(ctx context.Context, t testing.TB) {
	for ; ctx.Err() == nil; rest(ctx, time.Second) {
		k.mu.Lock()
		back := len(k.over) > 0
		k.mu.Unlock()
		if back {
			_ = k.recover(ctx, t)
		}
	}
}

// recover updates the store if necessary. The error says why that is not possible yet, for example because a node
// is unreachable.
func (k *Campaign) recover(ctx context.Context, t testing.TB) error {
	defer k.parts.reserve("recovery")()
	for _, r := range k.Controls {
		if again, err := k.recoverAt(ctx, t, r); err != nil {
			rest(ctx, 300*time.Millisecond)
			return err
		} else if again {
			return errors.New("it was brought up to date just now")
		}
	}
	return nil
}

// recoverAt updates the store through one replica. It reports whether decisions were halted.
func (k *Campaign) recoverAt(ctx context.Context, t testing.TB, r *cluster.Control) (halted bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := r.Client(t)
	defer c.Close()
	found, err := c.Recover(ctx, api.Recover{})
	if err != nil || found.Halted == "" {
		return false, err
	}
	if len(found.Silent) > 0 {
		return true, fmt.Errorf("%v are not heard", found.Silent)
	}
	var raised []witness.Raised
	for _, d := range found.Different {
		t.Logf("recovery: %+v", d)
		var state, node string
		var epoch uint64
		n, _ := fmt.Sscanf(d.Agents, "%s epoch %d on %s", &state, &epoch, &node)
		if n == 3 && !slices.Contains([]string{"copies", "snapshots", "forgotten", "missing"}, d.Action) {
			raised = append(raised, witness.Raised{Dataset: d.Dataset.String(), Epoch: epoch + 1, Node: node})
		}
	}
	// The request below may take effect even if its answer is lost.
	k.mu.Lock()
	k.raised = append(k.raised, raised...)
	k.mu.Unlock()
	if _, err := c.Recover(ctx, api.Recover{Confirm: found.Digest}); err != nil {
		return true, err
	}
	k.report.count("recoveries")
	k.mu.Lock()
	k.recovered++
	k.mu.Unlock()
	k.endRestore()
	return true, nil
}

// announcedBy returns the operations that announced losses, including those that the store has forgotten.
func (k *Campaign) announcedBy(now []dataset.Operation) (all []dataset.Operation) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, op := range now {
		k.ended[op.ID] = op
	}
	for _, op := range k.ended {
		of := slices.ContainsFunc(k.volumes, func(v *volume) bool { return v.id == op.DatasetID })
		if of && op.State == dataset.OpDone && op.Loss != nil && op.Loss.Away != 0 {
			all = append(all, op)
		}
	}
	return all
}

// ended maps UUIDs to operations that have ended.
type ended map[uuid.UUID]dataset.Operation
