package daemon

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/repositories"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/internal/run"
)

// An export is stored with restic, listed with its cluster, and read again. The folder with the records is removed.
func TestStore(t *testing.T) {
	top := t.TempDir()
	password := filepath.Join(top, "password")
	if err := os.WriteFile(password, []byte("correct horse battery staple"), 0o600); err != nil {
		t.Fatal(err)
	}
	restictest.Make(t, filepath.Join(top, "repository"), "correct horse battery staple")
	r, err := restic.New(t.Context(), &run.System{}, restic.Options{
		URL: filepath.Join(top, "repository"), Password: dataset.PasswordSource{File: password}, CacheDir: filepath.Join(top, "cache"),
	})
	if err != nil {
		t.Fatal(err)
	}
	cluster, folder := uuid.New(), filepath.Join(top, "export")
	taken := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for i := range 2 {
		removal, err := Store(t.Context(), r, folder, repositories.Export{
			Cluster: cluster, Volumes: i, Taken: taken.Add(time.Duration(i) * time.Hour),
			Write: func(w io.Writer) error { _, err := fmt.Fprintf(w, "records %d", i); return err },
		})
		if err != nil || removal != nil {
			t.Fatal(err, removal)
		}
	}
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("the folder was not removed: %v", err)
	}
	list, err := List(t.Context(), r)
	if err != nil || len(list) != 2 || list[0].Volumes != 1 || list[0].Cluster != cluster || !list[0].Taken.Equal(taken.Add(time.Hour)) {
		t.Fatalf("got %+v, %v", list, err)
	}
	var b bytes.Buffer
	if err := Read(t.Context(), r, list[0], &b); err != nil || b.String() != "records 1" {
		t.Errorf("got %q, %v", b.String(), err)
	}
}

// Of exports that are stored each hour, those of the last 24 hours and one of each of the last 30 days are kept, besides
// fewer than removeAtOnce others.
func TestRetention(t *testing.T) {
	start := time.Date(2026, 3, 1, 0, 5, 0, 0, time.UTC)
	var list []restic.Backup
	for day := range 40 { // a clock was wrong
		list = append(list, restic.Backup{ID: fmt.Sprint("future", day), Time: start.AddDate(1, 0, day)})
	}
	removals := 0
	for hour := range 100 * 24 {
		list = append(list, restic.Backup{ID: fmt.Sprint(hour), Time: start.Add(time.Duration(hour) * time.Hour)})
		gone := map[string]bool{}
		for _, id := range expired(list, start.Add(time.Duration(hour)*time.Hour)) {
			gone[id] = true
		}
		if len(gone) == 0 {
			continue
		}
		removals++
		var left []restic.Backup
		for _, b := range list {
			if !gone[b.ID] {
				left = append(left, b)
			}
		}
		list = left
	}
	days, newest := map[string]bool{}, start.Add((100*24-1)*time.Hour)
	recent := 0
	for _, b := range list[40:] {
		days[b.Time.Format(time.DateOnly)] = true
		if newest.Sub(b.Time) < 24*time.Hour {
			recent++
		}
	}
	if recent != 24 || len(days) < 30 || len(list) > 40+24+30+removeAtOnce || removals > 101 {
		t.Errorf("%d exports of the last day and of %d days are left of %d, after %d removals", recent, len(days), len(list), removals)
	}
}
