package agenttest

import (
	"errors"
	"sync"
	"testing"
	"time"
)

// Fuse simulates the crash of an agent. An act is a call that a type in fused.go or FusedGuard passes to Act, such as a
// commit or a write to the database. The fuse blows at one act: see Set, At and Nth. All later acts have no effect on
// the agent's disk or at control. If Late is set, the act at which the fuse blows still has an effect. Otherwise it has
// none.
type Fuse struct {
	Mu       sync.Mutex
	ActsLeft int  // acts before the one at which the fuse blows, or -1 if it does not blow
	Late     bool // the act at which it blows still has an effect
	dead     bool
	Gone     chan struct{}    // closed when it blows
	acts     []string         // names of all acts
	look     func(act string) // called before each act
	At       string           // it blows at the Nth act of this name
	Nth      int
	// failing has the error of the next act of a name, which then has no effect.
	failing map[string]error
}

var errDead = errors.New("the agent has crashed")

// Set lets n acts pass and blows the fuse at the next one: after that act if late is true, and before it otherwise. If
// n is -1, the fuse does not blow, and only records the acts. The function look, if not nil, is called with the name of
// each act before the act.
func (f *Fuse) Set(n int, late bool, look func(string)) (blown <-chan struct{}) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	f.ActsLeft, f.Late, f.dead, f.Gone, f.acts, f.look = n, late, false, make(chan struct{}), nil, look
	return f.Gone
}

// FailNext fails the next act of a name. The agent continues.
func (f *Fuse) FailNext(act string, err error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	f.failing = map[string]error{act: err}
}

// Mend repairs a fuse that has blown: all later acts have an effect again, and the function look that was passed to Set
// is not called any more. Mend keeps what DieAfter and FailNext have set.
func (f *Fuse) Mend() {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	f.ActsLeft, f.dead, f.look = -1, false, nil
}

// AwaitDeath waits until a fuse has blown, which closes the channel gone. It fails the test if the agent never reaches
// that act.
func AwaitDeath(t *testing.T, gone <-chan struct{}) {
	t.Helper()
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Fatal("the agent has not crashed after a minute: it never came to that act")
	}
}

// Blown reports whether the agent has crashed.
func (f *Fuse) Blown() bool {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	return f.dead
}

// Seen returns the names of the acts since Set.
func (f *Fuse) Seen() []string {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	return f.acts
}

// Act does something unless the agent has crashed.
func (f *Fuse) Act(name string, do func() error) error {
	f.Mu.Lock()
	look := f.look
	if f.dead {
		f.Mu.Unlock()
		return errDead
	}
	f.acts = append(f.acts, name)
	broken := f.failing[name]
	delete(f.failing, name)
	last := f.ActsLeft == 0
	if f.At == name {
		if f.Nth--; f.Nth == 0 {
			last, f.At = true, ""
		}
	}
	if f.ActsLeft > 0 {
		f.ActsLeft--
	}
	if last {
		f.ActsLeft, f.dead = -1, true
		defer close(f.Gone)
	}
	f.Mu.Unlock()
	if look != nil {
		look(name)
	}
	if broken != nil {
		return broken
	}
	if last && !f.Late {
		return errDead
	}
	err := do()
	if f.Blown() {
		return errDead
	}
	return err
}

// DieAfter blows the fuse of a host after the n-th act of a name from now.
func (h *Host) DieAfter(act string, n int) (gone <-chan struct{}) {
	h.Fuse.Mu.Lock()
	defer h.Fuse.Mu.Unlock()
	h.Fuse.Gone = make(chan struct{})
	h.Fuse.At, h.Fuse.Nth, h.Fuse.Late, h.Fuse.dead = act, n, true, false
	return h.Fuse.Gone
}
