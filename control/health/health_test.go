package health_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/health"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// TestStoreFindings names the servers that are down, and what one more failure would do.
func TestStoreFindings(t *testing.T) {
	good := store.Server{Name: "one", Address: "10.0.0.1:8300", Healthy: true, Leader: true}
	bad := store.Server{Name: "two", Address: "10.0.0.2:8300"}
	for name, c := range map[string]struct {
		health store.Health
		want   []string // level and parts of the text of each finding
	}{
		"healthy":            {store.Health{Leader: "x", Servers: []store.Server{good}}, nil},
		"servers unknown":    {store.Health{Leader: "x"}, nil},
		"no leader":          {store.Health{Problem: "Consul has no leader"}, []string{"error: Consul has no leader; nothing can be created"}},
		"one of five down":   {store.Health{Leader: "x", Servers: []store.Server{good, bad}, FailureTolerance: 1}, []string{"warning: Consul server two (10.0.0.2:8300) is down"}},
		"two are left":       {store.Health{Leader: "x", Servers: []store.Server{good, good}}, []string{"warning: only 2 Consul servers are left"}},
		"one of two is down": {store.Health{Leader: "x", Servers: []store.Server{good, bad}}, []string{"warning: Consul server two"}},
		"one of three":       {store.Health{Leader: "x", Servers: []store.Server{good, bad}}, []string{"one more server fails"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := health.StoreFindings(c.health)
			if len(got) != len(c.want) {
				t.Fatalf("%d findings, want %d: %+v", len(got), len(c.want), got)
			}
			for i, f := range got {
				if line := f.Level + ": " + f.Text; !strings.Contains(line, c.want[i]) || f.Fix == "" {
					t.Errorf("finding %q with the fix %q, want %q and a fix", line, f.Fix, c.want[i])
				}
			}
		})
	}
}

// TestClockOfNode: a node whose clock differs from control's by more than a minute is named, with the direction.
func TestClockOfNode(t *testing.T) {
	e, a := controltest.OneNode(t)
	for _, c := range []struct {
		off, later time.Duration
		want       string // part of the text; empty: no finding
	}{
		{0, 0, ""},
		{time.Minute, 0, ""},
		{-time.Minute, 0, ""},
		{61 * time.Second, 0, "its clock is 1m1s ahead of that of control"},
		{-2 * time.Hour, 0, "its clock is 2h0m0s behind that of control"},
		{-2 * time.Hour, 10 * time.Second, "its clock is 2h0m0s behind"},
		{0, 10 * time.Second, ""},
	} {
		err := e.Heartbeat(e.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation, NodeTime: e.Clock.Now().Add(c.off)})
		require.NoError(t, err)
		e.Clock.Advance(c.later)
		h, err := e.ClusterHealth(e.Ctx)
		require.NoError(t, err)
		var got string
		for _, f := range h.Findings {
			if f.Subject == "node alpha" && f.Level == "warning" && strings.Contains(f.Fix, "timedatectl") {
				got += f.Text
			}
		}
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s off: %q, want %q", c.off, got, c.want)
		}
	}
}

// TestClusterHealthHasWhatNodesReport: control keeps what an agent found, also over heartbeats without findings.
func TestClusterHealthHasWhatNodesReport(t *testing.T) {
	e, a := controltest.OneNode(t)
	node := func() api.NodeHealth {
		t.Helper()
		h, err := e.ClusterHealth(e.Ctx)
		if err != nil || len(h.Nodes) != 1 {
			t.Fatalf("%d nodes, want 1; error %v", len(h.Nodes), err)
		}
		return h.Nodes[0]
	}
	if n := node(); n.Found != nil || n.Name != "alpha" {
		t.Errorf("before a report: %+v, want node alpha without findings", n)
	}
	found := &api.NodeFindings{Examined: time.Unix(1, 0).UTC(), Findings: []api.Finding{{Level: "error", Subject: "root", Text: "is full"}}}
	for _, h := range []api.Heartbeat{{Found: found}, {}} {
		h.Incarnation = a.Incarnation
		e.OK(e.Heartbeat(e.Ctx, a.ID, h))
		if d := cmp.Diff(found, node().Found); d != "" {
			t.Errorf("findings (-want +got):\n%s", d)
		}
	}
	found = &api.NodeFindings{Examined: time.Unix(2, 0).UTC()}
	e.OK(e.Heartbeat(e.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation, Found: found}))
	if d := cmp.Diff(found, node().Found); d != "" {
		t.Errorf("after the problem ended (-want +got):\n%s", d)
	}
}

// TestSilentNode: a node whose last report is older than reports.MaxSilence is named, before its session ends, until it
// reports again.
func TestSilentNode(t *testing.T) {
	e, a := controltest.OneNode(t)
	silent := func() (text string) {
		t.Helper()
		h, err := e.ClusterHealth(e.Ctx)
		require.NoError(t, err)
		for _, f := range h.Findings {
			if f.Level == "warning" && f.Subject == "node alpha" {
				text += f.Text
			}
		}
		return text
	}
	reports := func() {
		t.Helper()
		e.OK(e.Heartbeat(e.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation}))
	}
	reports()
	e.Clock.Advance(18 * time.Second)
	if got := silent(); got != "" {
		t.Errorf("after 18 seconds: %q", got)
	}
	e.Clock.Advance(time.Second)
	if got := silent(); !strings.HasPrefix(got, "not reporting for 19s") {
		t.Errorf("after 19 seconds: %q", got)
	}
	reports()
	if got := silent(); got != "" {
		t.Errorf("after a report: %q", got)
	}
}

// TestHaltedStore: while a node distrusts the store, the state of the store says why, and what the next command is.
func TestHaltedStore(t *testing.T) {
	e, a := controltest.OneNode(t)
	halted := func() string {
		t.Helper()
		h, err := e.ClusterHealth(e.Ctx)
		require.NoError(t, err)
		return h.Store.Halted
	}
	if got := halted(); got != "" {
		t.Errorf("of a good store: %q", got)
	}
	a.ReportDistrust("it was lost")
	if got := halted(); !strings.Contains(got, "changes suspended") || !strings.Contains(got, "it was lost (drover store ") {
		t.Errorf("of a lost store: %q", got)
	}
	a.ReportDistrust("")
	if got := halted(); got != "" {
		t.Errorf("after the mend: %q", got)
	}
}

// TestFailoverHalted: while failover is halted because many nodes vanished together, the health of the cluster names
// these nodes and the next command.
func TestFailoverHalted(t *testing.T) {
	e, a := controltest.OneNode(t)
	found := func() []api.Finding {
		t.Helper()
		h, err := e.ClusterHealth(e.Ctx)
		require.NoError(t, err)
		return slices.DeleteFunc(h.Findings, func(f api.Finding) bool { return f.Subject != "failover" })
	}
	if got := found(); len(got) > 0 {
		t.Errorf("of a good cluster: %+v", got)
	}
	e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		return t.Put(record.FailoverKey, record.FailoverHalt{Nodes: []uuid.UUID{a.ID}})
	}))
	got := found()
	if len(got) != 1 || got[0].Level != "error" || !strings.Contains(got[0].Text, "(alpha), so failover is halted for the whole cluster") ||
		!strings.HasPrefix(got[0].Fix, "fix the connection to them") || !strings.Contains(got[0].Fix, "drover node fence NODE") {
		t.Errorf("while failover is halted: %+v", got)
	}
}

// TestFailoverHaltedSoon: the health of the cluster names the halt of failover before the background work records it:
// as a warning once enough nodes are silent, and as an error once their sessions have ended.
func TestFailoverHaltedSoon(t *testing.T) {
	l := controltest.NewLostHome(t, 1)
	all := []*controltest.Agent{l.Alpha, l.Beta, l.Gamma}
	check := func(when, level, text, fix string) {
		t.Helper()
		h, err := l.ClusterHealth(l.Ctx)
		require.NoError(t, err)
		var is api.Finding
		for _, f := range h.Findings {
			if f.Subject == "failover" {
				is = f
			}
		}
		if is.Level != level || !strings.Contains(is.Text, text) || !strings.Contains(is.Fix, fix) {
			t.Errorf("%s: %+v", when, is)
		}
		if st, err := l.Failover(l.Ctx); err != nil || st.Halted != "" {
			t.Errorf("%s: %+v, %v: the halt must not be recorded", when, st, err)
		}
	}
	check("all report", "", "", "")
	l.Wait(reports.MaxSilence+time.Second, all...)
	l.Alpha.ReportGuard()
	l.Beta.ReportGuard()
	check("one node of three is silent", "", "", "")
	l.Wait(reports.MaxSilence+2*time.Second, all...)
	l.Alpha.ReportGuard()
	check("beta is silent, gamma renews its session", "", "", "")
	l.Beta.ReportGuard()
	l.Gamma.ReportGuard()
	l.Wait(reports.MaxSilence+time.Second, all...)
	l.Alpha.ReportGuard()
	check("two nodes are silent", "warning", "2 nodes do not report (beta, gamma): when their sessions end, failover is halted",
		"drover node ls")
	l.Wait(2*l.Timing.Session, all...)
	l.Alpha.ReportGuard()
	check("both renew their sessions", "", "", "")
	l.Replicas.EndSession(l.Beta)
	check("one session has ended", "", "", "")
	l.Replicas.EndSession(l.Gamma)
	check("both sessions have ended", "error", "2 nodes vanished within 5m0s (beta, gamma), so failover is halted",
		"drover node fence NODE")
}

// unavailable is a store that does not answer reads.
type unavailable struct{ store.Store }

func (u unavailable) err() error {
	return dataset.Errorf(dataset.ErrUnavailable, "the store does not answer")
}

func (u unavailable) Get(context.Context, string) (store.Entry, error) { return store.Entry{}, u.err() }

func (u unavailable) GetMany(context.Context, []string) ([]store.Entry, error) { return nil, u.err() }

func (u unavailable) List(context.Context, string, string, int) ([]store.Entry, error) {
	return nil, u.err()
}

// TestUnreadableRecords: each damaged record has a finding, and a store that does not answer has one.
func TestUnreadableRecords(t *testing.T) {
	found := func(e *controltest.Control) (texts []string) {
		t.Helper()
		h, err := e.ClusterHealth(e.Ctx)
		require.NoError(t, err)
		for _, f := range h.Findings {
			if f.Level == "error" && f.Subject == "store" {
				text, _, _ := strings.Cut(f.Text, ":")
				texts = append(texts, text)
			}
		}
		return texts
	}
	e, a := controltest.OneNode(t)
	for _, key := range []string{record.HaltedKey, record.NodeKey(a.ID)} {
		e.OK(e.Spy.Store.Txn(e.Ctx, nil, []store.Write{{Key: key, Value: []byte(`{"`)}}))
	}
	want := []string{"whether changes are suspended cannot be read", "the list of nodes cannot be read"}
	if d := cmp.Diff(want, found(e)); d != "" {
		t.Errorf("damaged records (-want +got):\n%s", d)
	}
	e.Spy.Store = unavailable{e.Spy.Store}
	if d := cmp.Diff(want[:1], found(e)); d != "" {
		t.Errorf("the store does not answer (-want +got):\n%s", d)
	}
}

// TestLateBackupsComeLast: what fails or takes long while the scheduled backups are read hides no other part.
func TestLateBackupsComeLast(t *testing.T) {
	e, a := controltest.OneNode(t)
	for err, want := range map[error]string{
		errors.New("a record is missing"): "whether any is late is not known: a record is missing",
		context.DeadlineExceeded:          "whether any is late is not known: reading the records takes longer than 3s",
	} {
		exported := false
		exports := func(context.Context) ([]api.Finding, error) {
			exported = true
			return nil, nil
		}
		late := func(ctx context.Context) ([]api.Finding, error) {
			if _, bounded := ctx.Deadline(); !bounded || !exported {
				t.Errorf("bounded: %t, after the exports: %t", bounded, exported)
			}
			return nil, err
		}
		r := health.New(e.Members, e.Spy, "bolt", nil, exports, late)
		h, failed := r.ClusterHealth(e.Ctx)
		if failed != nil || len(h.Nodes) != 1 || h.Nodes[0].Node != a.ID {
			t.Fatalf("%v, %+v", failed, h.Nodes)
		}
		if len(h.Findings) != 1 || h.Findings[0].Level != "warning" || h.Findings[0].Text != want {
			t.Errorf("got %+v, want %q", h.Findings, want)
		}
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
