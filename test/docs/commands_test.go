package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// TestOnEngine runs everything that needs an engine on one shared engine.
func TestOnEngine(t *testing.T) {
	e := engine.Start(t, engine.Options{Ports: true})
	for _, name := range []string{"mariadb", "mariadb:11.4"} {
		e.Must(t, "tag", "drover-mariadb", name)
	}
	for _, name := range []string{"redis", "debian"} {
		e.Must(t, "tag", "drover-redis", name)
	}
	if r := e.Compose(t, t.TempDir(), "version"); r.Exit != 0 {
		t.Fatal(r)
	}
	t.Run("Commands", func(t *testing.T) { testCommands(t, e) })
	t.Run("Examples", func(t *testing.T) { testExamples(t, e) })
	t.Run("Claims", func(t *testing.T) { testClaims(t, e) })
}

// testCommands runs each page from its first block to its last.
func testCommands(t *testing.T, e *engine.Engine) {
	for _, p := range pages(t) {
		if p.name == "CONTRIBUTING.md" || !p.runs() {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			w := begin(t, e)
			for _, b := range p.blocks {
				w.play(t, p, b)
				if t.Failed() {
					return // the following blocks depend on it
				}
			}
		})
	}
}

// runs reports whether there is anything to run.
func (p page) runs() bool {
	for _, b := range p.blocks {
		if b.language == "console" && b.note.notRun == "" {
			return true
		}
	}
	return false
}

// play does with a block what a reader would do.
func (w *world) play(t *testing.T, p page, b block) {
	t.Helper()
	if b.note.notRun != "" {
		return
	}
	if name, ok := b.note.get("setup"); ok {
		setup, known := fixtures()[name]
		if !known {
			t.Fatalf("%s:%d: unknown setup %q", p.name, b.line, name)
		}
		setup(t, w)
	}
	text := strings.Join(b.lines, "\n") + "\n"
	if path, ok := b.note.get("file"); ok {
		w.write(t, path, text)
	}
	if path, ok := b.note.get("compose"); ok {
		w.compose(t, path, text)
	}
	if _, ok := b.note.get("alerts"); ok {
		w.alerts(t, text)
	}
	if b.language != "console" {
		return
	}
	examples := w.examples(t, b.note)
	for _, c := range b.commands() {
		where := fmt.Sprintf("%s:%d", p.name, c.line)
		w.run(t, where, examples.Replace(c.text), c.shown)
		if t.Failed() {
			return
		}
	}
}

// examples replaces the UUIDs that a page shows by those of this run.
func (w *world) examples(t *testing.T, n note) *strings.Replacer {
	t.Helper()
	var pairs []string
	for _, word := range n.words {
		shown, name, _ := strings.Cut(word.value, ":")
		switch word.key {
		case "prefix":
			pairs = append(pairs, shown, w.dataset(t, name)[:len(shown)])
		case "uuid":
			pairs = append(pairs, shown, w.dataset(t, name))
		case "snapshot":
			pairs = append(pairs, shown, w.snapshot(t, name))
		}
	}
	return strings.NewReplacer(pairs...)
}

// run runs one command. It must succeed, unless the page shows that it fails: then it must fail with that error.
func (w *world) run(t *testing.T, where, line string, shown []string) {
	t.Helper()
	t.Logf("%s $ %s", where, line)
	if dir, ok := strings.CutPrefix(line, "cd "); ok {
		w.cwd = dir
		return
	}
	if args, ok := strings.CutPrefix(line, "systemctl "); ok {
		w.systemctl(t, where, strings.Fields(args))
		return
	}
	var out string
	var exit int
	once := func() error {
		if out, exit = w.sh(t, line); exit != 0 {
			return fmt.Errorf("%s: %s: exit %d\n%s", where, line, exit, out)
		}
		return nil
	}
	fails := len(shown) > 0 && failure.MatchString(shown[0])
	err := once()
	if asksServer.MatchString(line) && err != nil {
		host.Await(t, where, once) // it was just started
		err = nil
	}
	if fails != (err != nil) {
		t.Errorf("%s: %s: exit %d, and the page shows that it fails: %t\n%s", where, line, exit, fails, out)
	}
	for _, want := range shown {
		if !pattern(want).MatchString(out) {
			t.Errorf("%s: %s: the page shows %q, it printed\n%s", where, line, want, out)
		}
	}
}

var (
	failure    = regexp.MustCompile(`^(drover|docker|Error response from daemon): `)
	asksServer = regexp.MustCompile(`^docker (compose )?exec `)
)

// pattern matches a line of output; … stands for anything in it.
func pattern(line string) *regexp.Regexp {
	parts := strings.Split(line, "…")
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(p)
	}
	return regexp.MustCompile(`(?m)^` + strings.TrimSuffix(strings.Join(parts, ".*"), `\n`) + `$`)
}

// systemctl does to the processes what the units would do.
func (w *world) systemctl(t *testing.T, where string, args []string) {
	t.Helper()
	switch strings.Join(args, " ") {
	case "stop drover":
		w.stop(t)
	case "start drover":
		w.start(t)
	case "restart drover":
		w.stop(t)
		w.start(t)
	case "reload drover":
		const done = "reloaded the profiles"
		before := strings.Count(w.h.Log(), done)
		require.NoError(t, unix.Kill(w.h.PID(), unix.SIGHUP))
		host.Await(t, where, func() error {
			if strings.Count(w.h.Log(), done) == before {
				return fmt.Errorf("the profiles are not reloaded")
			}
			return nil
		})
	default:
		t.Fatalf("%s: systemctl %s cannot be played", where, strings.Join(args, " "))
	}
}

// write writes a file that a page shows.
func (w *world) write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
}

// compose puts the keys of text into a Compose file, and has Compose check the file. If there is no file, it makes
// one with a service that uses the volumes.
func (w *world) compose(t *testing.T, path, text string) {
	t.Helper()
	file := map[string]any{}
	old := []byte("services: {db: {image: mariadb, volumes: ['data:/var/lib/mysql']}}\n")
	if path != "" {
		var err error
		old, err = os.ReadFile(path)
		require.NoError(t, err)
	} else {
		path = filepath.Join(t.TempDir(), "compose.yaml")
	}
	var change map[string]any
	for into, src := range map[*map[string]any]string{&file: string(old), &change: text} {
		require.NoErrorf(t, yaml.Unmarshal([]byte(src), into), "%s", src)
	}
	whole, err := yaml.Marshal(merge(file, change))
	require.NoError(t, err)
	w.write(t, path, string(whole))
	w.must(t, "docker compose -f "+path+" config --quiet")
}

// merge merges change into base, map by map.
func merge(base, change map[string]any) map[string]any {
	for k, v := range change {
		sub, isMap := v.(map[string]any)
		if old, was := base[k].(map[string]any); was && isMap {
			v = merge(old, sub)
		}
		base[k] = v
	}
	return base
}

// alerts checks that the rules for Prometheus only use existing metrics.
func (w *world) alerts(t *testing.T, text string) {
	t.Helper()
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(text), &rules))
	page, exit := w.sh(t, "curl -sS --unix-socket /run/drover/drover.sock http://drover/metrics")
	if exit != 0 || len(rules.Groups) == 0 {
		t.Fatalf("%+v %s", rules, page)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			for _, figure := range regexp.MustCompile(`drover_\w+`).FindAllString(r.Expr, -1) {
				if !strings.Contains(page, "\n"+figure+"{") && !strings.Contains(page, "\n"+figure+" ") {
					t.Errorf("alert %s asks for %s, which is not among the figures:\n%s", r.Alert, figure, page)
				}
			}
		}
	}
}
