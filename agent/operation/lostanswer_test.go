package operation_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// doubtful is a control that loses its next answer to a commit: the commit happens, and the agent gets an error. If a
// test says so, later reports of the agent are refused and have no effect.
type doubtful struct {
	api.Service
	mu            sync.Mutex
	lost, refused error
}

func (c *doubtful) loses(lost, refused error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost, c.refused = lost, refused
}

func (c *doubtful) Commit(ctx context.Context, node uuid.UUID, r api.Report) (api.Committed, error) {
	c.mu.Lock()
	lost, refused := c.lost, c.refused
	if c.lost = nil; lost == nil {
		c.refused = nil
	}
	c.mu.Unlock()
	if lost == nil && refused != nil {
		return api.Committed{}, refused
	}
	out, err := c.Service.Commit(ctx, node, r)
	if lost != nil && err == nil {
		return api.Committed{}, lost
	}
	return out, err
}

// doubts makes a host's connection to control lose answers.
func doubts(h *agenttest.Host) *doubtful {
	h.Cluster.Helper()
	c := &doubtful{Service: h.Cluster.Client}
	h.Stop()
	h.Config.Control = agenttest.FusedControl{Service: c, Host: h}
	h.Start()
	return c
}

// A snapshot whose commit may have happened stays in the pool, whatever answer the agent got: it may be recorded, and
// then it must exist.
func TestI3SnapshotInDoubtIsKept(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "dir", "dir")
	c := doubts(f.A)
	d := f.A.NewVolume("db", nil)
	for _, err := range []error{dataset.ErrNoSpace, dataset.ErrInternal, errors.New("of no kind"), context.DeadlineExceeded} {
		text := err.Error()
		f.A.WriteFile("db", "token", text)
		c.loses(err, nil)
		if got := f.A.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db"}); !errors.Is(got, err) {
			t.Errorf("%v: the snapshot ended with %v", err, got)
		}
		s := f.Recorded("db").HeadParent
		e, serr := f.A.Pool().Stat(t.Context(), d.ID)
		if serr != nil || s == uuid.Nil || host.IndexOf(e, s) < 0 {
			t.Fatalf("%v: snapshot %s is on record, and the pool has %+v, %v", err, s, e.Snapshots, serr)
		}
		f.A.WriteFile("db", "token", "later")
		clone := "copy-" + s.String()[:8]
		f.A.NewVolume(clone+"@snapshot-"+s.String(), nil)
		if got := f.A.ReadFile(clone, "token"); got != text {
			t.Errorf("%v: the snapshot holds %q", err, got)
		}
	}
}

// New data stays in the pool if the answer to its commit was lost and the repeated report is then refused, as by a
// control that was halted meanwhile: the unanswered commit is valid.
func TestI3CommitRefusedAfterLostAnswerKeepsData(t *testing.T) {
	t.Parallel()
	for name, asks := range map[string]func(f *agenttest.Cluster) error{
		"import": func(f *agenttest.Cluster) error {
			_, err := f.A.Import(f.Context(), api.Request{Volume: "new"}, archiveOf(f.T, "token", "old"))
			return err
		},
		"clone": func(f *agenttest.Cluster) error {
			return f.A.Create(f.Context(), "new", map[string]string{"from": "db"})
		},
		"snapshot": func(f *agenttest.Cluster) error {
			return f.A.Perform(f.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := agenttest.NewCluster(t, "dir", "dir")
			c := doubts(f.A)
			f.A.NewVolume("db", nil)
			f.A.WriteFile("db", "token", "old")
			halted := dataset.Errorf(dataset.ErrConflict, "nothing is decided")
			c.loses(dataset.ErrUnavailable, halted)
			if err := asks(f); !errors.Is(err, dataset.ErrUnavailable) || !strings.Contains(err.Error(), halted.Error()) {
				t.Errorf("it ended with %v", err)
			}
			f.A.WriteFile("db", "token", "later")
			f.A.Restart()
			if s := f.Recorded("db").HeadParent; s != uuid.Nil {
				f.A.NewVolume("new@snapshot-"+s.String(), nil)
			}
			f.A.WantFile("new", "token", "old")
		})
	}
}

// archiveOf is a tar archive with one file.
func archiveOf(t *testing.T, file, text string) *bytes.Buffer {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err := w.WriteHeader(&tar.Header{Name: file, Mode: 0o600, Size: int64(len(text)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = w.Write([]byte(text))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return &archive
}
