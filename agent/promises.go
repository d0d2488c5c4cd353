package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/promise"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/steps"
)

// maxPromiseRequest bounds the body of one, in bytes.
const maxPromiseRequest = 2 << 20

// answerPromise answers another node's agent that control may not hear.
func (a *Agent) answerPromise(w http.ResponseWriter, r *http.Request) {
	answer, err := a.promises(w, r)
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(dataset.KindOf(err).HTTP)
		_ = json.NewEncoder(w).Encode(dataset.ProblemOf(err)) // who asked may be gone
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (a *Agent) promises(w http.ResponseWriter, r *http.Request) (out promise.Answer, err error) {
	peer, err := a.config.PeerID(r)
	if err != nil {
		return out, err
	}
	if r.Method != http.MethodPost {
		return out, dataset.Errorf(dataset.ErrInvalid, "promise: want POST, not %s", dataset.Clip(r.Method))
	}
	var req promise.Request
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxPromiseRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(&req); err != nil {
		return out, dataset.Errorf(dataset.ErrInvalid, "promise: %w", err)
	}
	if len(req.Epochs) > promise.MaxEpochs {
		return out, dataset.Errorf(dataset.ErrInvalid, "promise for %d datasets: want %d at most", len(req.Epochs), promise.MaxEpochs)
	}
	_, span := a.Standing()
	out = a.keeper.Grant(peer, req, span, func(e promise.Epoch) string { return a.notHome(peer, e) })
	out.Node = a.NodeID
	return out, nil
}

// notHome says why a node is not the home of a dataset at an epoch, as far as is known here;
// "" when it is.
func (a *Agent) notHome(node uuid.UUID, e promise.Epoch) string {
	if d, here := a.Cache.Dataset(e.Dataset); here {
		if d.Epoch < e.Epoch {
			return "" // this node has missed where it went, and has nothing to open after that
		}
		return fmt.Sprintf("node %s has it, at epoch %d", a.NodeName, d.Epoch)
	}
	if k, kept := a.Cache.Copy(e.Dataset); kept && k.Record != nil {
		if k.Record.Home == node && k.Record.Epoch <= e.Epoch { // it may have heard of a later one first
			return ""
		}
		return fmt.Sprintf("it is on node %s, at epoch %d", a.nodes.name(k.Record.Home), k.Record.Epoch)
	}
	if p, comes := a.moveTable.Get(e.Dataset); comes && p.Epoch == e.Epoch+1 {
		return ""
	}
	return "node " + a.NodeName + " has nothing of it"
}

// goesByItself reports whether a promotion rests on that nobody hears of the home, and not
// on a person's word alone.
func goesByItself(op *dataset.Operation) bool { return op.Loss != nil && op.Loss.Away != 0 }

// swear makes sure that the epoch before is over that a promotion is to follow: no node
// holds a promise of this one, and none gets any more, until control has said what became
// of it. A holder that goes on asking is alive, whatever control hears of it.
func (m *moving) swear(ctx context.Context) error {
	a, op := m.a, m.op
	if !op.Dataset.Profile.Failover.Auto {
		return nil
	}
	m.jb.Step("waiting until it is certain that its last home writes no more")
	e := promise.Epoch{Dataset: op.DatasetID, Epoch: op.Epoch}
	until := a.Clock.Steady() + a.Limits.Lease
	for {
		_, span := a.Standing()
		holder, wait := a.keeper.Swear(e, span)
		if wait == 0 {
			steps.At("move.sworn")
			return nil
		}
		if a.Clock.Steady() >= until {
			if holder == uuid.Nil {
				return dataset.Errorf(dataset.ErrOffline, "move of volume %s: node %s has not heard of control for long enough (ask again)", op.Volume, a.NodeName)
			}
			if err := a.nodes.look(ctx); err != nil {
				return err
			}
			return dataset.Errorf(dataset.ErrInUse, "volume %s is open on node %s, which is alive, but cut off from control (stop its containers there first, or mend its way to control)", op.Volume, a.nodes.name(holder))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.Clock.After(min(wait, max(until-a.Clock.Steady(), time.Millisecond))):
		}
	}
}

// unswear lets promises be made again for datasets of which control says that no promotion
// is on record: what this node asked of it is over then, whatever came of that.
func (a *Agent) unswear(ctx context.Context) {
	for _, id := range a.keeper.Sworn() {
		if a.moveTable.IsActive(id) {
			continue
		}
		v, err := a.Control.Volume(ctx, id.String())
		if dataset.KindOf(err) == dataset.ErrNotFound || err == nil && v.Move == uuid.Nil && !a.moveTable.IsActive(id) {
			a.keeper.Unswear(id)
		}
	}
}

// fence runs the command of the profile that cuts the last home off, if it has one.
func (m *moving) fence(ctx context.Context) error {
	a, op := m.a, m.op
	f := op.Dataset.Profile.Failover.Fence
	if !goesByItself(op) || f.Kind != dataset.FenceExec {
		return nil
	}
	m.jb.Step("cutting its last home off")
	home, err := a.nodes.peer(ctx, op.Loss.Fenced)
	if err == nil {
		err = safeProgram(f.Exec, a.config.FencePrograms)
	}
	if err == nil {
		err = guard.ExecFence{Args: f.Exec, Timeout: time.Duration(f.Timeout)}.Fence(ctx, a.runner(), home.Name, home.ID)
	}
	if err != nil {
		return fmt.Errorf("move of volume %s: its last home is not certain to be cut off: %w", op.Volume, err)
	}
	steps.At("move.fenced")
	return nil
}

// safeProgram fails with ErrForbidden unless a program of a profile may run here as root: nobody but
// root can change or exchange it, and this host allows it, if it allows only some.
//
// The program is then run by its path, not by a descriptor. That is as safe, since nobody but root
// can make the path name something else, and a script needs its path: the interpreter opens it again,
// and a script may use it to find files in its own folder.
func safeProgram(args, allowed []string) error {
	if len(args) == 0 {
		return dataset.Errorf(dataset.ErrInvalid, "the profile names no program")
	}
	if allowed != nil && !slices.Contains(allowed, args[0]) {
		return dataset.Errorf(dataset.ErrForbidden, "program %s: fence_programs in drover.yaml of this host does not name it (add it there, if it may run here as root)", args[0])
	}
	if err := safefile.CheckProgram(args[0]); err != nil {
		return fmt.Errorf("program %w", err)
	}
	return nil
}

func (a *Agent) runner() run.Runner {
	if a.config.Runner != nil {
		return a.config.Runner
	}
	return &run.System{}
}
