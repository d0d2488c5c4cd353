// Package repository_test tests the repository part of package backup. It is a folder of its own, so that it runs beside
// the other tests.
package repository_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// Without the delays of a disk, restic takes a tenth of the time.
func TestMain(m *testing.M) { os.Exit(scratch.MainInMemory(m)) }

// records has at most one repository.
type records struct {
	r   dataset.Repository
	err error // of the list
}

func (f *records) Repositories(context.Context) (list []dataset.Repository, err error) {
	if f.r.Name != "" {
		list = append(list, f.r)
	}
	return list, f.err
}

func (f *records) Repository(_ context.Context, name string) (dataset.Repository, error) {
	if name != f.r.Name {
		return dataset.Repository{}, dataset.Errorf(dataset.ErrNotFound, "no such repository: %q", name)
	}
	return f.r, nil
}

func must(t *testing.T, err error) {
	t.Helper()
	require.NoError(t, err)
}

// newChecker returns a checker, and a repository in a folder that does not exist yet.
func newChecker(t *testing.T) (*backup.Checker, *records, api.NewRepository) {
	t.Helper()
	dir, known := t.TempDir(), &records{}
	file := filepath.Join(dir, "password")
	must(t, os.WriteFile(file, []byte("correct horse\n"), 0o600))
	c := backup.NewChecker(filepath.Join(dir, "cache"), known, &host.Programs{Runner: &run.System{}, Allowed: []string{}})
	return c, known, api.NewRepository{
		Name: "offsite", URL: filepath.Join(dir, "repository"), Password: dataset.PasswordSource{File: file},
	}
}

// refused checks the kind of an error, and that its only line contains want.
func refused(t *testing.T, err error, kind *dataset.Kind, want string) {
	t.Helper()
	if err == nil || dataset.KindOf(err) != kind || !strings.Contains(err.Error(), want) ||
		strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v (%v), want %v: %s", err, dataset.KindOf(err), kind, want)
	}
}

// spy records the arguments of the programs that run.
type spy struct {
	run.System
	args []string
}

func (s *spy) Run(ctx context.Context, c run.Command) (run.Result, error) {
	s.args = append(s.args, c.Args...)
	return s.System.Run(ctx, c)
}

func TestUploadLimitIsPassedOn(t *testing.T) {
	_, _, place := newChecker(t)
	for limit, want := range map[dataset.Size]bool{0: false, 20 * dataset.MiB: true} {
		runner := &spy{}
		c := backup.NewChecker(t.TempDir(), &records{}, &host.Programs{Runner: runner, Allowed: []string{}})
		place.MaxUpload = &limit
		place.URL = filepath.Join(t.TempDir(), "repository")
		_, err := c.Check(t.Context(), api.RepositoryCheck{New: &place, Init: true})
		require.NoError(t, err)
		if got := slices.Contains(runner.args, "--limit-upload=20480"); got != want {
			t.Errorf("limit %s: restic got %q", limit, runner.args)
		}
	}
}

// Only a limit of 0 lets a backup read without a limit.
func TestReadLimitIsPassedOn(t *testing.T) {
	none, rate := dataset.Size(0), 20*dataset.MiB
	for _, limit := range []*dataset.Size{nil, &none, &rate} {
		_, _, place := newChecker(t)
		place.MaxRead = limit
		record := place.Repository()
		runner := &fakes.Recorder{Next: &run.System{}}
		c := backup.NewChecker(t.TempDir(), &records{}, &host.Programs{Runner: runner, Allowed: []string{}})
		_, err := c.Check(t.Context(), api.RepositoryCheck{New: &place, Init: true})
		require.NoError(t, err)
		r, err := c.Restic(t.Context(), record)
		must(t, err)
		if got := r.MaxRead(); (got > 0) != (limit != &none) {
			t.Errorf("limit %v: a backup reads at most %d bytes in a second", limit, got)
		}
	}
}

func TestRepositoryIsMadeOnlyIfAsked(t *testing.T) {
	c, known, place := newChecker(t)
	_, err := c.Check(t.Context(), api.RepositoryCheck{New: &place})
	refused(t, err, dataset.ErrNotFound, "repository "+place.URL+": there is no repository (mount its disk, or correct the URL)")
	if _, err := os.Stat(place.URL); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a repository that was only opened was made: %v", err)
	}
	made, err := c.Check(t.Context(), api.RepositoryCheck{New: &place, Init: true})
	if err != nil || !made.Created || len(made.ID) != 64 || made.Format < 1 {
		t.Fatalf("got %+v, %v", made, err)
	}
	made.Created = false
	if again, err := c.Check(t.Context(), api.RepositoryCheck{New: &place, Init: true}); err != nil || again != made {
		t.Errorf("got %+v, %v, want %+v", again, err, made)
	}
	known.r = place.Repository()
	if got, err := c.Check(t.Context(), api.RepositoryCheck{Name: "offsite", ReadDataPercent: 100}); err != nil || got != made {
		t.Errorf("got %+v, %v, want %+v", got, err, made)
	}
	must(t, os.WriteFile(place.Password.File, []byte("another password"), 0o600))
	_, err = c.Check(t.Context(), api.RepositoryCheck{New: &place, Init: true})
	refused(t, err, dataset.ErrForbidden, "the password is wrong")
}

// A recorded repository that is gone is never made again: its backups would be missing without an error.
func TestRecordedRepositoryIsNotMade(t *testing.T) {
	c, known, place := newChecker(t)
	known.r = place.Repository()
	_, err := c.Check(t.Context(), api.RepositoryCheck{Name: "offsite"})
	refused(t, err, dataset.ErrNotFound, "there is no repository (mount its disk")
	if _, err := os.Stat(place.URL); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the check made a repository: %v", err)
	}
}

// The place of a recorded repository is known under every name: its disk may not be mounted.
func TestRecordedPlaceIsNotMadeUnderAnotherName(t *testing.T) {
	c, known, place := newChecker(t)
	known.r = place.Repository()
	second := place
	second.Name = "second"
	ask := api.RepositoryCheck{New: &second, Init: true}
	_, err := c.Check(t.Context(), ask)
	refused(t, err, dataset.ErrNotFound, "repository "+place.URL+": there is no repository, and it is not made again, "+
		"because it is recorded as offsite (mount its disk")
	known.r, known.err = dataset.Repository{}, dataset.Errorf(dataset.ErrUnavailable, "control does not answer")
	_, err = c.Check(t.Context(), ask)
	refused(t, err, dataset.ErrUnavailable, "it is not made, because the recorded repositories cannot be read: control")
	if _, err := os.Stat(place.URL); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a repository was made: %v", err)
	}
	known.err = nil
	if made, err := c.Check(t.Context(), ask); err != nil || !made.Created {
		t.Errorf("got %+v, %v", made, err)
	}
}

// Of concurrent requests for a new repository, one makes it, and the others open it.
func TestRepositoryIsMadeOnce(t *testing.T) {
	c, _, place := newChecker(t)
	states, errs := make([]api.RepositoryState, 3), make([]error, 3)
	var all sync.WaitGroup
	for i := range states {
		all.Go(func() {
			states[i], errs[i] = c.Check(t.Context(), api.RepositoryCheck{New: &place, Init: true})
		})
	}
	all.Wait()
	made := 0
	for i, s := range states {
		if errs[i] != nil || s.ID == "" || s.ID != states[0].ID {
			t.Errorf("got %+v, %v", s, errs[i])
		}
		if s.Created {
			made++
		}
	}
	if made != 1 {
		t.Errorf("%d requests made the repository, want one: %+v", made, states)
	}
}

// A host runs two checks of content. Further ones are refused until one has ended.
func TestTooManyChecksAreRefused(t *testing.T) {
	c, known, place := newChecker(t)
	known.r = place.Repository()
	must(t, os.Mkdir(place.URL, 0o700))
	bin := t.TempDir()
	fifo := filepath.Join(bin, "started")
	must(t, unix.Mkfifo(fifo, 0o600))
	started, err := os.OpenFile(fifo, os.O_RDWR, 0)
	must(t, err)
	defer started.Close()
	must(t, os.WriteFile(filepath.Join(bin, "restic"), []byte(`#!/bin/sh
case $* in
version) echo restic 0.14.0;;
*" cat "*) echo '{"id": "5f1c09aa", "version": 2}';;
*) echo >`+fifo+`; exec sleep infinity;;
esac
`), 0o700))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for range 2 { // the second time, the first checks have ended
		ctx, cancel := context.WithCancel(t.Context())
		check := func() error {
			_, err := c.Check(ctx, api.RepositoryCheck{Name: "offsite"})
			return err
		}
		ended := make(chan error)
		for range 2 {
			go func() { ended <- check() }()
			_, err := started.Read(make([]byte, 1))
			must(t, err)
		}
		refused(t, check(), dataset.ErrInUse, "check of repository offsite: 2 checks run on this host already")
		cancel()
		for range 2 {
			if err := <-ended; err == nil || !strings.Contains(err.Error(), "restic was ended") {
				t.Errorf("got %v", err)
			}
		}
	}
}

// A new repository is not made among other files. A lost config file must not turn a repository into an empty one.
func TestRepositoryIsNotMadeAmongFiles(t *testing.T) {
	c, _, place := newChecker(t)
	must(t, os.MkdirAll(filepath.Join(place.URL, "lost+found"), 0o700))
	must(t, os.MkdirAll(filepath.Join(place.URL, "data"), 0o700))
	ask := api.RepositoryCheck{New: &place, Init: true}
	_, err := c.Check(t.Context(), ask)
	refused(t, err, dataset.ErrExists, "repository "+place.URL+": the directory is not empty, and has no repository")
	must(t, os.Remove(filepath.Join(place.URL, "data")))
	if made, err := c.Check(t.Context(), ask); err != nil || !made.Created {
		t.Errorf("got %+v, %v", made, err)
	}
}

func TestRefusedChecks(t *testing.T) {
	c, _, place := newChecker(t)
	secret, program := place, place
	secret.URL = "sftp://u:hunter2@host//srv"
	program.Password = dataset.PasswordSource{Exec: "/etc/drover/print-password"}
	for _, r := range []struct {
		req  api.RepositoryCheck
		kind *dataset.Kind
		want string
	}{
		{api.RepositoryCheck{}, dataset.ErrInvalid, "either name or new"},
		{api.RepositoryCheck{Name: "offsite", New: &place}, dataset.ErrInvalid, "either name or new"},
		{api.RepositoryCheck{Name: "offsite", Init: true}, dataset.ErrInvalid, "init applies only to new"},
		{api.RepositoryCheck{New: &place, ReadDataPercent: 1}, dataset.ErrInvalid, "applies only to name"},
		{api.RepositoryCheck{Name: "offsite", ReadDataPercent: 101}, dataset.ErrInvalid, "0 to 100 percent, not 101"},
		{api.RepositoryCheck{Name: "other"}, dataset.ErrNotFound, `no such repository: "other"`},
		{api.RepositoryCheck{New: &secret}, dataset.ErrInvalid, "must not contain a password"},
		{api.RepositoryCheck{New: &program}, dataset.ErrForbidden, "not listed in fence_programs of drover.yaml"},
	} {
		_, err := c.Check(t.Context(), r.req)
		refused(t, err, r.kind, r.want)
	}
}

// A record that a compromised control has made does not make this host run a program of control's choice.
func TestRecordsOfControlAreCheckedAgain(t *testing.T) {
	for name, r := range map[string]struct {
		change func(*dataset.Repository)
		want   string
	}{
		"program": {
			func(r *dataset.Repository) { r.Password = dataset.PasswordSource{Exec: "/usr/bin/true"} },
			"it must be below /etc/drover/",
		},
		"option of ssh": {
			func(r *dataset.Repository) { r.URL = "sftp://-oProxyCommand=id//srv" },
			"expected sftp://USER@HOST//PATH",
		},
		"backend with a program": {
			func(r *dataset.Repository) { r.URL = "rclone:remote:path" },
			"expected /PATH, sftp://",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "password")
			must(t, os.WriteFile(file, []byte("correct horse\n"), 0o600))
			known := &records{r: dataset.Repository{
				Name: "offsite", URL: filepath.Join(dir, "repository"), Password: dataset.PasswordSource{File: file},
			}}
			r.change(&known.r)
			all := &host.Programs{Runner: &run.System{}} // all programs of root are allowed
			c := backup.NewChecker(filepath.Join(dir, "cache"), known, all)
			_, err := c.OpenNamed(t.Context(), "offsite")
			refused(t, err, dataset.ErrInvalid, r.want)
		})
	}
}

// countingRunner counts the runs of restic that open a repository.
type countingRunner struct {
	run.System
	opened atomic.Int32
}

func (c *countingRunner) Run(ctx context.Context, cmd run.Command) (run.Result, error) {
	if cmd.Name == "restic" && len(cmd.Args) > 1 {
		c.opened.Add(1)
	}
	return c.System.Run(ctx, cmd)
}

// A repository of scheduled backups that cannot be opened is reported before a backup fails, and no longer once it can
// be opened. A recent run of restic replaces a probe.
func TestAnUnopenedRepositoryIsReported(t *testing.T) {
	dir, now, runner := t.TempDir(), fakes.NewClock(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)), &countingRunner{}
	url, file := filepath.Join(dir, "repository"), filepath.Join(dir, "password")
	restictest.Make(t, url, "correct horse")
	must(t, os.WriteFile(file, []byte("correct horse\n"), 0o600))
	known := &records{r: dataset.Repository{
		Name: "offsite", URL: url, Password: dataset.PasswordSource{File: file},
	}}
	used := users{"offsite"}
	c := backup.NewChecker(filepath.Join(dir, "cache"), known, &host.Programs{Runner: runner, Allowed: []string{}})
	c.Clock, c.Users = now, &used
	expect := func(when string, starts int32, want string) {
		t.Helper()
		var list condition.List
		c.Findings(&list)
		text := ""
		for _, f := range list {
			text += f.Subject + ": " + f.Text + " (" + f.Fix + ")\n"
		}
		if want == "" && text != "" || !strings.Contains(text, want) {
			t.Errorf("%s: reported %q, want %q", when, text, want)
		}
		if n := runner.opened.Swap(0); n != starts {
			t.Errorf("%s: restic ran %d times, want %d", when, n, starts)
		}
	}
	probe := func(after time.Duration) {
		now.Advance(after)
		c.Probe(t.Context())
	}
	probe(0)
	expect("first probe", 1, "")
	probe(time.Minute)
	expect("a minute later", 0, "")
	must(t, os.WriteFile(file, []byte("wrong\n"), 0o600))
	probe(10 * time.Minute)
	expect("with a wrong password", 1, "repository offsite: this host cannot open it since 2026-03-01 12:11:00 UTC: "+
		"repository "+url+": the password is wrong")
	probe(3 * time.Minute)
	expect("again", 1, "since 2026-03-01 12:11:00 UTC")
	must(t, os.WriteFile(file, []byte("correct horse\n"), 0o600))
	_, err := c.Check(t.Context(), api.RepositoryCheck{Name: "offsite"})
	must(t, err)
	expect("after the check", 1, "") // the check itself runs as nice
	must(t, os.Rename(url, url+".away"))
	probe(time.Minute)
	expect("a minute after the check", 0, "")
	probe(10 * time.Minute)
	expect("without its directory", 0, "there is no repository")
	used = nil
	probe(30 * time.Minute)
	expect("of no backup", 0, "there is no repository")
	probe(31 * time.Minute)
	expect("of no backup, an hour later", 0, "")
	_, err = c.Restic(t.Context(), dataset.Repository{Name: "offsite"})
	if err == nil {
		t.Error("a record without a URL is accepted")
	}
	expect("by another command", 0, "repository offsite: ")
	known.r.Name = "other"
	probe(time.Minute)
	expect("once its record is removed", 0, "")
}

// users are the repositories that scheduled backups use.
type users []string

func (u *users) UsedRepositories() []string { return *u }
