// Package repository_test tests the repository part of package backup. It is a folder of its own, so that it runs beside the other tests.
package repository_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/internal/run"
)

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
	dir, now, runner := t.TempDir(), clock.NewFake(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)), &countingRunner{}
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
		var list host.List
		c.Findings(&list)
		text := ""
		for _, f := range list.All {
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
