package daemon

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/require"
)

const (
	goodProfiles  = "default: plain\nprofiles: {plain: {}}\n"
	otherProfiles = "default: plain\nprofiles: {plain: {}, gold: {size: 1GiB}}\n"
	badProfiles   = "default: plain\nprofiles: {plain: {sise: 1GiB}}\n"
)

// A file of profiles that changes after it was loaded is noticed without a reload, and the finding ends with the mend.
// Nothing but a reload loads the change.
func TestProfilesFileThatChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "profiles.yaml")
	clk := clock.NewFake(time.Now())
	log := logrus.New()
	log.SetOutput(io.Discard)
	write := func(text string) func() error {
		return func() error { return os.WriteFile(path, []byte(text), 0o600) }
	}
	require.NoError(t, write(goodProfiles)())
	p, err := loadProfilesFile(path, clk, log)
	require.NoError(t, err)
	reload := func() error { p.reload(); return nil }
	nothing := func() error { return nil }
	for i, c := range []struct {
		do          func() error
		later       time.Duration // before the look
		level, want string        // of the finding; "" without one
		names       string        // of the loaded profiles
	}{
		{nothing, 0, "", "", "plain"},
		{write(goodProfiles + "# a comment\n"), changeSettles, "", "", "plain"},
		{func() error { return os.Remove(path) }, 0, "error", "the file was removed, so the next start will fail", "plain"},
		{nothing, lookEvery, "error", "the file was removed", "plain"},
		{write(goodProfiles), 0, "", "", "plain"},
		{write(badProfiles), 0, "error", "the file cannot be loaded any more, so the next start will fail", "plain"},
		{func() error { return os.Remove(path) }, 0, "error", "the file was removed", "plain"},
		{func() error { return os.Mkdir(path, 0o700) }, 0, "error", "is a directory", "plain"},
		{func() error { return os.Remove(path) }, 0, "error", "the file was removed", "plain"},
		{write(goodProfiles), 0, "", "", "plain"},
		{write(otherProfiles), 0, "", "", "plain"},
		{nothing, changeSettles, "warning", "has changed since it was loaded", "plain"},
		{reload, 0, "", "", "gold plain"},
		{write(badProfiles), 0, "error", "cannot be loaded any more", "gold plain"},
		{reload, 0, "error", "reload failed; keeping previous profiles", "gold plain"},
		{nothing, lookEvery, "error", "reload failed; keeping previous profiles", "gold plain"},
		{write(otherProfiles), 0, "", "", "gold plain"},
		{write(badProfiles), changeSettles, "error", "cannot be loaded any more", "gold plain"},
		{write(goodProfiles), changeSettles, "warning", "has changed since it was loaded", "gold plain"},
		{reload, 0, "", "", "plain"},
	} {
		require.NoError(t, c.do())
		p.look() // as soon as the change
		clk.Advance(c.later)
		p.look()
		got := p.findings()
		switch {
		case c.want == "" && len(got) == 0:
		case len(got) == 1 && c.want != "" && got[0].Level == c.level && strings.Contains(got[0].Text, c.want) && got[0].Fix != "":
		default:
			t.Errorf("step %d: %+v, want %s %q", i, got, c.level, c.want)
		}
		if names := strings.Join(p.set.Load().Names(), " "); names != c.names {
			t.Errorf("step %d: loaded are %s, want %s", i, names, c.names)
		}
	}
	if len(p.reread) != 1 {
		t.Error("a reload was not notified")
	}
}

// watch looks at the file every five seconds.
func TestProfilesFileIsWatched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "profiles.yaml")
	require.NoError(t, os.WriteFile(path, []byte(goodProfiles), 0o600))
	clk := clock.NewFake(time.Now())
	log := logrus.New()
	log.SetOutput(io.Discard)
	p, err := loadProfilesFile(path, clk, log)
	require.NoError(t, err)
	defer p.watch(t.Context())()
	require.NoError(t, os.Remove(path))
	for end := time.Now().Add(10 * time.Second); len(p.findings()) == 0; {
		if time.Now().After(end) {
			t.Fatal("the removed file is not noticed")
		}
		clk.Advance(lookEvery)
		time.Sleep(time.Millisecond)
	}
}
