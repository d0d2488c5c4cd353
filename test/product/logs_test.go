package product_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/test/host"
)

// TestOneMessageForOneFailure: each failure has one line in the log, at the level that tells an operator whether to
// act. The line has the ID of the request.
func TestOneMessageForOneFailure(t *testing.T) {
	h := host.Start(t, host.Options{})
	plug := h.Plug(t)
	for _, name := range []string{"used", "torn", "lost", "away"} {
		if err := plug.Create(name+"@gold", nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := plug.Mount("used@gold", "m"); err != nil {
		t.Fatal(err)
	}
	h.Must(t, "snapshot", "create", "lost", "--name", "early")
	folder := func(volume string) string {
		var v api.Volume
		h.JSON(t, &v, "volume", "inspect", volume)
		return filepath.Join(h.Root, "pools", "default", "datasets", v.ID.String())
	}
	mount := func(volume string) func() bool {
		return func() bool { _, err := plug.Mount(volume, "n"); return err != nil }
	}
	exec := func(args ...string) func() bool {
		return func() bool { return h.Exec(t, args...).Exit != 0 }
	}
	for _, c := range []struct {
		name  string
		fails func() bool
		want  string
	}{
		{"create refused", func() bool { return plug.Create("db@glod", nil) != nil }, "INFO call of the engine was refused"},
		{"remove refused", func() bool { return plug.Remove("used@gold") != nil }, "INFO call of the engine was refused"},
		{"resize refused", exec("volume", "resize", "used", "1KiB"), "INFO request was refused"},
		{"create differs", exec("volume", "create", "used@silver"), "INFO request was refused"},
		{"restore refused", exec("snapshot", "restore", "used", "none"), "INFO request was refused"},
		{"mount fails", func() bool {
			damage(t, folder("torn")+"/head.img")
			return mount("torn@gold")()
		}, "ERROR call of the engine failed"},
		{"restore fails", func() bool {
			remove(t, folder("lost")+"/*-*.img")
			return exec("snapshot", "restore", "lost", "early")()
		}, "WARNING operation failed"},
		{"pool offline", func() bool {
			if err := os.Rename(h.Root+"/pools/default", h.Root+"/pools/away"); err != nil {
				t.Fatal(err)
			}
			return mount("away@gold")()
		}, "WARNING call of the engine failed"},
	} {
		before := len(h.Log())
		if !c.fails() {
			t.Errorf("%s: it succeeded", c.name)
		}
		host.Await(t, c.name, func() error { // an agent logs after control has recorded the failure
			if got := messages(h.Log()[before:]); !slices.Equal(got, []string{c.want}) {
				return fmt.Errorf("%q, want one line: %s", got, c.want)
			}
			return nil
		})
	}
}

// messages returns level and message of the lines about failures. Lines at level debug are not logged.
func messages(log string) (out []string) {
	for line := range strings.Lines(log) {
		words := strings.Fields(line)
		text := strings.Join(words[1:], " ")
		if strings.Contains(text, "is done") || !strings.Contains(text, " request=") && words[1] == "INFO" {
			continue
		}
		i := strings.Index(text, "=")
		out = append(out, text[:strings.LastIndex(text[:i], " ")])
	}
	return out
}

// damage overwrites the beginning of an image.
func damage(t *testing.T, image string) {
	t.Helper()
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.Write(make([]byte, 1<<20))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// remove removes the one file that matches a pattern.
func remove(t *testing.T, pattern string) {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatal(pattern, found, err)
	}
	if err := os.Remove(found[0]); err != nil {
		t.Fatal(err)
	}
}
