package dir_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
)

const (
	little = 16 * dataset.MiB
	more   = 24 * dataset.MiB
)

// C1: stopped at every step of every operation, a dataset is the one or the other, and doing
// it again ends as if nothing had been; so does reaping before.
func TestC1StoppedAtEveryStep(t *testing.T) { stoppedAtEveryStep(t, t.TempDir()) }

// acts are what is stopped: each on a dataset that holds "new", with a snapshot that holds
// "old", of which it makes another one or changes it.
func acts() map[string]func(ctx context.Context, p backends.Pool, s stage) error {
	return map[string]func(ctx context.Context, p backends.Pool, s stage) error{
		"create": func(ctx context.Context, p backends.Pool, s stage) error {
			_, err := p.Create(ctx, s.other)
			return err
		},
		"clone": func(ctx context.Context, p backends.Pool, s stage) error {
			_, err := p.Clone(ctx, s.other, dataset.Source{Dataset: s.d.ID, Snapshot: s.old.ID}, nil)
			return err
		},
		"snapshot": func(ctx context.Context, p backends.Pool, s stage) error { return p.Snapshot(ctx, s.keep, nil) },
		"delete snapshot": func(ctx context.Context, p backends.Pool, s stage) error {
			return p.DeleteSnapshot(ctx, s.d.ID, s.old.ID)
		},
		"restore": func(ctx context.Context, p backends.Pool, s stage) error {
			return p.Restore(ctx, s.d.ID, s.old.ID, s.keep, nil)
		},
		"restore apart": func(ctx context.Context, p backends.Pool, s stage) error {
			return p.(interface {
				RestoreApart(ctx context.Context, ds, id uuid.UUID, keep dataset.Snapshot, progress backends.Progress) error
			}).RestoreApart(ctx, s.d.ID, s.old.ID, s.keep, nil)
		},
		"resize": func(ctx context.Context, p backends.Pool, s stage) error {
			if r, ok := p.(backends.Resizer); ok {
				return r.Resize(ctx, s.d.ID, more, nil)
			}
			return nil
		},
	}
}

// stage is a pool with a dataset and its snapshot, and what is to be made.
type stage struct {
	*bench
	other     dataset.Dataset
	old, keep dataset.Snapshot
}

func stoppedAtEveryStep(t *testing.T, parent string) {
	for name, act := range acts() {
		t.Run(name, func(t *testing.T) {
			for step := 0; ; step++ {
				for _, reaped := range []bool{false, true} {
					s := newStage(t, parent)
					if !s.stopped(step, act) {
						if step == 0 && name != "resize" {
							t.Error("it has no steps")
						}
						return
					}
					s.open(dir.Backend{})
					s.isOneOrTheOther(name, false)
					if reaped {
						s.settled()
						s.isOneOrTheOther(name, false)
					}
					for range 2 {
						s.ok(act(t.Context(), s.pool, s))
						s.isOneOrTheOther(name, true)
					}
					s.settled()
					s.noProjectIsLeft()
				}
			}
		})
	}
}

func newStage(t *testing.T, parent string) stage {
	t.Helper()
	s := stage{bench: &bench{T: t, path: filepath.Join(parent, uuid.NewString()), d: dataset.Dataset{ID: uuid.New()}}}
	s.open(dir.Backend{})
	s.other = dataset.Dataset{ID: uuid.New()}
	if s.sized() {
		s.d.Size, s.other.Size = little, more
	}
	_, err := s.pool.Create(t.Context(), s.d)
	s.ok(err)
	s.ok(s.pool.Commit(t.Context(), s.d.ID))
	s.write("old")
	s.old, s.keep = dataset.Snapshot{ID: uuid.New(), Dataset: s.d.ID}, dataset.Snapshot{ID: uuid.New(), Dataset: s.d.ID}
	s.ok(s.pool.Snapshot(t.Context(), s.old, nil))
	s.write("new")
	return s
}

func (s *stage) open(b dir.Backend) {
	s.Helper()
	var err error
	s.pool, err = b.Open(s.Context(), backends.Config{Name: "test", Path: s.path, Make: true})
	s.ok(err)
}

func (s *stage) sized() bool { return s.pool.Info().Capabilities.EnforcesSize }

// stopped does something up to a step, and no further, and tells whether it came to that.
func (s *stage) stopped(at int, act func(ctx context.Context, p backends.Pool, s stage) error) bool {
	s.Helper()
	done := make(chan error, 1)
	go func() {
		defer close(done)
		n := 0
		s.open(dir.Stepping(func(string) {
			if n == at {
				runtime.Goexit() // as a crash: what is open is closed, and nothing else is done
			}
			n++
		}))
		done <- act(s.Context(), s.pool, *s)
	}()
	err, ended := <-done
	if ended {
		s.ok(err)
	}
	return !ended
}

// isOneOrTheOther wants all to be as before or as after, and sizes to hold.
func (s *stage) isOneOrTheOther(act string, done bool) {
	s.Helper()
	want, kept, limit := "new", "new", s.d.Size
	has := map[uuid.UUID]bool{}
	for _, id := range s.snapshots() {
		has[id] = true
	}
	switch act {
	case "create", "clone":
		if _, err := s.pool.Stat(s.Context(), s.other.ID); err == nil {
			s.limitIs(s.other.ID, s.other.Size)
		} else if done || !errors.Is(err, dataset.ErrNotFound) {
			s.Error(err)
		}
	case "restore", "restore apart":
		if has[s.keep.ID] {
			want = "old"
		}
	case "resize":
		if done {
			limit = s.other.Size
		} else if s.sized() && s.limit(s.d.ID) == more {
			limit = more
		}
	}
	if done && act != "create" && act != "clone" && act != "resize" && act != "delete snapshot" && !has[s.keep.ID] {
		s.Error("the snapshot is not there")
	}
	if has[s.old.ID] && done && act == "delete snapshot" || !has[s.old.ID] && act != "delete snapshot" {
		s.Errorf("the first snapshot: there %v, done %v", has[s.old.ID], done)
	}
	s.holds(want)
	s.limitIs(s.d.ID, limit)
	for id, content := range map[uuid.UUID]string{s.old.ID: "old", s.keep.ID: kept} {
		if has[id] {
			s.cloneHolds(id, content)
		}
	}
}

func (s *stage) cloneHolds(snapshot uuid.UUID, want string) {
	s.Helper()
	c := dataset.Dataset{ID: uuid.New()}
	_, err := s.pool.Clone(s.Context(), c, dataset.Source{Dataset: s.d.ID, Snapshot: snapshot}, nil)
	s.ok(err)
	b := *s.bench
	b.d = c
	b.holds(want)
	s.ok(s.pool.Delete(s.Context(), c.ID))
}

// limit returns what the kernel holds a head to.
func (s *stage) limit(id uuid.UUID) dataset.Size {
	s.Helper()
	b := *s.bench
	b.d.ID = id
	head, err := os.Open(b.head())
	s.ok(err)
	defer head.Close()
	project, inherited, err := fsctl.Project(head)
	s.ok(err)
	if project == 0 || !inherited {
		s.Errorf("the head is in project %d, inherited %v", project, inherited)
	}
	q, err := fsctl.ProjectQuota(head, project)
	s.ok(err)
	return dataset.Size(q.Limit)
}

func (s *stage) limitIs(id uuid.UUID, want dataset.Size) {
	s.Helper()
	if !s.sized() {
		return
	}
	if got := s.limit(id); got != want {
		s.Errorf("the limit is %s, want %s", got, want)
	}
}

// settled reaps, and wants nothing to be left then, nor to be wrong.
func (s *stage) settled() {
	s.Helper()
	_, err := s.pool.Stat(s.Context(), s.other.ID)
	whole := err == nil
	_, err = s.pool.Reap(s.Context(), func(id uuid.UUID) bool { return id != s.other.ID || !whole })
	s.ok(err)
	list, err := s.pool.List(s.Context())
	s.ok(err)
	for _, e := range list {
		if e.Problem != "" || e.State == backends.EntryDeleting {
			s.Errorf("the list has %+v", e)
		}
	}
	left, err := filepath.Glob(filepath.Join(s.path, "*", "*", "tmp-*"))
	if err != nil || len(left) > 0 {
		s.Errorf("left: %q, %v", left, err)
	}
}

// noProjectIsLeft deletes all, and wants the projects of all heads to be anybody's again.
func (s *stage) noProjectIsLeft() {
	s.Helper()
	var projects []uint32
	heads, err := filepath.Glob(filepath.Join(s.path, "*", "*", "head*"))
	s.ok(err)
	for _, path := range heads {
		head, err := os.Open(path)
		s.ok(err)
		if id, _, err := fsctl.Project(head); err == nil && id != 0 {
			projects = append(projects, id)
		}
		s.ok(head.Close())
	}
	if s.sized() && len(projects) == 0 {
		s.Error("no head is in a project")
	}
	s.ok(s.pool.Delete(s.Context(), s.d.ID))
	s.ok(s.pool.Delete(s.Context(), s.other.ID))
	root, err := os.Open(s.path)
	s.ok(err)
	defer root.Close()
	for _, id := range projects {
		q, err := fsctl.ProjectQuota(root, id)
		for until := time.Now().Add(time.Minute); err == nil && !q.Free() && time.Now().Before(until); {
			time.Sleep(time.Millisecond) // XFS takes what was removed off its counts a little later
			q, err = fsctl.ProjectQuota(root, id)
		}
		if err != nil || !q.Free() {
			s.Errorf("project %d has %+v, %v", id, q, err)
		}
	}
}
