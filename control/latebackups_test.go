package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// Every control replica reports late backups, also one that does not do the background work, and one that does it since
// the other has ended.
func TestAllReplicasReportLateBackups(t *testing.T) {
	x := controltest.NewReplicas(t, 0)
	addNightly(x)
	first, second := replicaAt(x, "c1", "v1.5.0"), replicaAt(x, "c2", "v1.5.0")
	e := x.On(first)
	controltest.AddRepository(e, "offsite")
	a := e.NewAgent("alpha")
	a.MustCreate("db@nightly")
	a.MustCreate("gone@nightly")
	a.MustCreate("plain@silver")
	a.MustDelete("gone")
	find := func(s *control.Service) string {
		t.Helper()
		h, err := s.ClusterHealth(t.Context())
		require.NoError(t, err)
		var texts []string
		for _, f := range h.Findings {
			if strings.HasPrefix(f.Subject, "volume ") || strings.Contains(f.Text, "backup") {
				texts = append(texts, f.Level+" "+f.Subject+": "+f.Text)
			}
		}
		return strings.Join(texts, "\n")
	}
	same := func(when, part string) {
		t.Helper()
		got, other := find(first), find(second)
		if got != other || !strings.Contains(got, part) || (part == "") != (got == "") {
			t.Errorf("%s: the replica that does the work reports %q, and the other %q; want %q", when, got, other, part)
		}
	}
	e.Round()
	same("a new volume", "")
	e.AdvanceAndRun(30 * time.Hour)
	same("after a missed night", "warning volume db: its scheduled backup is ")
	e.OK(e.RemoveRepository(e.Ctx, "offsite", true))
	e.AdvanceAndRun(2 * time.Minute)
	same("without the repository", "its profile has it backed up to repository offsite, which is not recorded")
	x.On(second).Round()
	same("after both did the work", "its profile has it backed up to repository offsite, which is not recorded")
}

// gatedStore is a store whose records of datasets are listed only after open is closed.
type gatedStore struct {
	store.Store
	begun chan struct{} // gets an element from each List that waits
	open  chan struct{}
}

func (g gatedStore) List(ctx context.Context, prefix, after string, limit int) ([]store.Entry, error) {
	if prefix == record.DatasetsPrefix {
		g.begun <- struct{}{}
		select {
		case <-g.open:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return g.Store.List(ctx, prefix, after, limit)
}

// While a request reads the scheduled backups, another request does not wait longer than its context permits. After the
// reading has ended, other requests use its result, and after it has failed, another request reads again.
func TestReadingBackupsDoesNotBlockOthers(t *testing.T) {
	x := controltest.NewReplicas(t, 0)
	gate := gatedStore{x.Store, make(chan struct{}, 10), make(chan struct{})}
	x.Store = gate
	s := replicaAt(x, "c1", "v1.5.0")
	read := func(ctx context.Context) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := s.Housekeeper.LateBackups(ctx)
			done <- err
		}()
		return done
	}
	failing, stop := context.WithCancel(t.Context())
	failed := read(failing)
	<-gate.begun
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	select {
	case err := <-read(short):
		assert.ErrorIsf(t, err, context.DeadlineExceeded, "the request that waits")
	case <-time.After(10 * time.Second):
		t.Error("the request waits longer than its context permits")
	}
	waiting := read(t.Context())
	stop()
	assert.ErrorIsf(t, <-failed, context.Canceled, "the request that was cancelled")
	<-gate.begun
	close(gate.open)
	assert.NoErrorf(t, <-waiting, "the request after the failed one")
	if err := <-read(t.Context()); err != nil || len(gate.begun) > 0 {
		t.Errorf("the records were read again: %v", err)
	}
}

// pagedStore is a store that lists at most pages pages of the records of datasets.
type pagedStore struct {
	store.Store
	pages  int
	listed []string // the key after which each page begins
}

func (p *pagedStore) List(ctx context.Context, prefix, after string, limit int) ([]store.Entry, error) {
	if prefix == record.DatasetsPrefix {
		if p.pages == 0 {
			return nil, context.DeadlineExceeded
		}
		p.pages--
		p.listed = append(p.listed, after)
	}
	return p.Store.List(ctx, prefix, after, limit)
}

// If a request has too little time to read the scheduled backups of all volumes, the next one continues its reading.
func TestReadingBackupsContinues(t *testing.T) {
	x := controltest.NewReplicas(t, 0)
	addNightly(x)
	paged := &pagedStore{Store: x.Store, pages: 1}
	last := fmt.Sprintf("v%05d", api.MaxPage)
	for n := range api.MaxPage + 1 {
		d := dataset.Dataset{
			ID: uuid.UUID{byte(n >> 8), byte(n)}, Volume: fmt.Sprintf("v%05d", n), State: dataset.StateReady,
			Profile: x.Profiles.ByName["nightly"],
		}
		value, err := json.Marshal(d)
		require.NoError(t, err)
		_, err = x.Store.Txn(t.Context(), nil, []store.Write{{Key: record.DatasetKey(d.ID), Value: value}})
		require.NoError(t, err)
	}
	x.Store = paged
	s := replicaAt(x, "c1", "v1.5.0")
	if _, err := s.Housekeeper.LateBackups(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the first request: %v", err)
	}
	paged.pages = 1
	found, err := s.Housekeeper.LateBackups(t.Context())
	if err != nil || len(found) != api.MaxPage+1 || found[api.MaxPage].Subject != "volume "+last {
		t.Errorf("the second request: %d findings, %v", len(found), err)
	}
	if want := []string{"", record.DatasetKey(uuid.UUID{byte((api.MaxPage - 1) >> 8), byte((api.MaxPage - 1) % 256)})}; !slices.Equal(paged.listed, want) {
		t.Errorf("it listed the pages after %q, want %q", paged.listed, want)
	}
}

// replicaAt starts a control replica of a version.
func replicaAt(x *controltest.Replicas, name, version string) *control.Service {
	x.Helper()
	s, _ := control.Assemble(control.Deps{
		Store: x.Store, Clock: x.Clock, Version: version, Shared: true,
		Replica:  membership.Replica{Name: name, Address: name + ":9470"},
		Profiles: func() control.Profiles { return x.Profiles },
	})
	x.Cleanup(s.Close)
	x.TakePart(s)
	return s
}

// addNightly adds the profile nightly, whose volumes are backed up every night.
func addNightly(x *controltest.Replicas) {
	p := x.Profiles.ByName["bronze"]
	p.Name, p.Revision = "nightly", "r1-nightly"
	p.Backup = dataset.Backups{To: "offsite", Schedule: "@daily"}
	x.Profiles.ByName[p.Name] = p
}
