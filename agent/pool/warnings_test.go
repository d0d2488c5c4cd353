package pool_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/doctor"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
)

// warner is backend dir whose pools give the warnings that the test sets.
type warner struct {
	dir.Backend
	mu    sync.Mutex
	lines []string
}

func (w *warner) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := w.Backend.Open(ctx, cfg)
	return warnerPool{p, w}, err
}

func (w *warner) say(lines ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = lines
}

type warnerPool struct {
	backends.Pool
	w *warner
}

func (p warnerPool) Warnings() []string {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.w.lines
}

// The warnings of a pool are reported by doctor, and once in the log.
func TestPoolWarningsAreReportedOnce(t *testing.T) {
	w := &warner{}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(w) })
	log := logtest.NewLocal(r.Agent.Log.(*logrus.Logger))
	logged := func() (lines []string) {
		for _, e := range log.AllEntries() {
			if strings.HasPrefix(e.Message, "pool: ") {
				lines = append(lines, e.Level.String()+" "+e.Data["pool"].(string)+" "+e.Message)
			}
		}
		return lines
	}
	found := func() (lines []string) {
		rep := &doctor.Report{}
		p, _ := r.Pools.ByName("default")
		r.CheckPool(t.Context(), rep, p, nil, false)
		for _, f := range rep.All {
			if f.Level == host.Warning && strings.HasPrefix(f.Text, "it lost ") {
				lines = append(lines, f.Text)
			}
		}
		return lines
	}
	for _, c := range []struct{ says, log []string }{
		{nil, nil},
		{[]string{"it lost 1"}, []string{"warning default pool: it lost 1"}},
		{[]string{"it lost 1"}, nil},
		{[]string{"it lost 1", "it lost 2"}, []string{"warning default pool: it lost 2"}},
		{nil, nil},
		{[]string{"it lost 1"}, []string{"warning default pool: it lost 1"}},
	} {
		log.Reset()
		w.say(c.says...)
		for range 2 {
			r.Pools.Status(t.Context())
		}
		if got := logged(); !slices.Equal(got, c.log) {
			t.Errorf("of %q it logs %q, want %q", c.says, got, c.log)
		}
		if got := found(); !slices.Equal(got, c.says) {
			t.Errorf("of %q doctor has %q", c.says, got)
		}
	}
}
