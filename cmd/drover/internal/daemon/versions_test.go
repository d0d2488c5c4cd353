package daemon

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/dataset"
	testconsul "github.com/droverhq/drover/test/consul"
)

// ends returns the error with which a process ends that must be refused.
func (l *lab) ends(what func(context.Context, Options) error, o Options) error {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	err := what(ctx, o)
	if ctx.Err() != nil {
		l.t.Fatalf("%s %s goes on", o.NodeName, o.Version)
	}
	return err
}

// awaitReplicas waits until others can see this number of replicas. If two replicas start at once, either of them may
// find that it cannot work together with the other.
func awaitReplicas(t *testing.T, c *testconsul.Cluster, want int) {
	t.Helper()
	var keys []string
	for begun, index := time.Now(), uint64(0); time.Since(begun) < time.Minute; {
		now, meta, err := c.Client().KV().Keys("drover/data/live/control/", "", &api.QueryOptions{WaitIndex: index, WaitTime: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if keys, index = now, meta.LastIndex; len(keys) == want {
			return
		}
	}
	t.Fatalf("%q stand, want %d", keys, want)
}

// Replicas and agents of neighbouring versions work together. Others do not start. Their error names the other process
// and what to upgrade.
func TestVersionsSideBySide(t *testing.T) {
	c := testconsul.Start(t, testconsul.Options{})
	l := newLab(t)
	at := func(o Options, version string) Options { o.Version = version; return o }
	one := at(l.control("c1", c.Addresses()), "v1.4.2")
	first := l.start(Control, one)
	awaitReplicas(t, c, 1)
	for version, want := range map[string]string{
		"v1.2.0": "replica c2 cannot work with other replicas: control replica c1 (" + one.Listen.Advertise + ") is drover v1.4.2 and control is v1.2.0: only neighbouring versions work together",
		"v1.6.0": "is drover v1.4.2 and control is v1.6.0: only neighbouring versions work together (upgrade control replica c1",
	} {
		if err := l.ends(Control, at(l.control("c2", c.Addresses()), version)); !errors.Is(err, dataset.ErrForbidden) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", version, err)
		}
	}
	l.start(Control, at(l.control("c2", c.Addresses()), "v1.3.0"))
	awaitReplicas(t, c, 2)
	if err := l.ends(Control, at(l.control("c3", c.Addresses()), "v1.5.0")); err == nil || !strings.Contains(err.Error(), "control replica c2 (") {
		t.Errorf("beside two: %v", err)
	}
	// A replica that is restarted with another version is not refused because of its earlier record.
	first.end(t)
	l.start(Control, at(one, "v1.2.0"))

	if err := l.ends(Agent, at(l.agent("n1", one), "v1.4.0")); !errors.Is(err, dataset.ErrForbidden) || !strings.Contains(err.Error(), "is drover v1.4.0 and control is v1.2.0: only neighbouring versions work together (upgrade control first") {
		t.Errorf("an agent: %v", err)
	}
	l.start(Agent, at(l.agent("n2", one), "v1.3.9"))
}

// While Consul is unreachable, a replica does not know the others. It serves, and ends when it finds out that it cannot
// work together with them.
func TestVersionsAreFoundOutLater(t *testing.T) {
	c := testconsul.Start(t, testconsul.Options{})
	l := newLab(t)
	one, two := l.control("c1", c.Addresses()), l.control("c2", c.Addresses())
	one.Version, two.Version = "v1.4.0", "v1.2.0"
	l.start(Control, one)
	awaitReplicas(t, c, 1)
	c.Servers[0].Pause()
	second := l.start(Control, two)
	c.Servers[0].Resume()
	err := <-second.done
	second.stop()
	second.stop = nil
	if !errors.Is(err, dataset.ErrForbidden) || !strings.Contains(err.Error(), "control replica c1 (") {
		t.Errorf("%v", err)
	}
}
