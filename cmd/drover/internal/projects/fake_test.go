package projects

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"go.yaml.in/yaml/v3"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/tree"
	"github.com/droverhq/drover/test/require"
)

// killed is the panic with which a test ends a run of the command, like kill -9.
type killed struct{ place string }

// world is a host with an engine, docker compose and a Drover, as fakes that work on folders.
type world struct {
	t        *testing.T
	dir      string // the folder of the project
	root     string // the folder of volumes
	journals string

	containers []Container
	local      map[string]bool       // local volumes
	volumes    map[string]api.Volume // volumes of Drover, by name
	operations map[uuid.UUID]dataset.Operation
	fail       map[string]error // by method or command
	mounted    []string         // mount points
	size       dataset.Size

	onAt             func(place string)
	afterUp          func() // is called at the end of each start
	onConfig         func() // is called for each docker compose config
	onContainers     func() // is called for each list of the containers
	env, image       string
	hidesOverride    bool     // docker compose finds no override file
	ignoresOverrides bool     // docker compose merges no override file
	finds            []string // files that docker compose finds, too

	places   []string // that were passed
	killAt   int      // the number of the place at which the command is killed; 0: none
	cancelAt string   // the place at which the user presses Ctrl-C
	cancel   context.CancelFunc
	out, err bytes.Buffer
	ids      int
	noted    []string // effects of fakes, in order
}

func newWorld(t *testing.T) *world {
	return &world{
		t: t, dir: t.TempDir(), root: t.TempDir(), journals: t.TempDir(), local: map[string]bool{}, volumes: map[string]api.Volume{},
		operations: map[uuid.UUID]dataset.Operation{}, fail: map[string]error{}, size: dataset.GiB,
	}
}

// at is a place between two actions.
func (w *world) at(place string) {
	w.places = append(w.places, place)
	if w.onAt != nil {
		w.onAt(place)
	}
	if place == w.cancelAt && w.cancel != nil {
		w.cancel()
	}
	if w.killAt > 0 && len(w.places) == w.killAt {
		panic(killed{place})
	}
}

// act is an act of a fake: it can be interrupted before and behind it.
func (w *world) act(name string, do func()) error {
	w.at("before " + name)
	if err := w.fail[name]; err != nil {
		return err
	}
	do()
	w.noted = append(w.noted, name)
	w.at("behind " + name)
	return nil
}

// run runs the command. It returns its error, or killed.
func (w *world) run(args ...string) (err error) {
	w.places = nil
	w.out.Reset()
	a := &cli.App{
		In: strings.NewReader(""), Out: &w.out, ErrOut: &w.err, Getenv: func(string) string { return "" },
		Now: func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) },
		NewID: func() uuid.UUID {
			w.ids++
			return uuid.MustParse(fmt.Sprintf("00000000-0000-4000-8000-%d", 100000000000+w.ids))
		},
		Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
		Signals: func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, w.cancel = context.WithCancel(ctx)
			return ctx, w.cancel
		},
		Dial: func(string) (cli.Remote, error) { return fakeRemote{w: w}, nil },
	}
	cmd := Command(a, Host{
		Engine: func() (Engine, error) { return fakeEngine{w}, nil }, Compose: w.compose, At: w.at, Journals: w.journals,
		Mounts: func() (table mount.Mounts, err error) {
			for _, m := range w.mounted {
				table = append(table, &mount.Entry{Mountpoint: m})
			}
			return table, nil
		},
	})
	cmd.SetArgs(args)
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	defer func() {
		if k, ok := recover().(killed); ok {
			err = errors.New("killed at " + k.place)
			// The kernel releases the lock of a killed process.
			_ = os.Remove(w.journal() + ".lock")
		}
	}()
	return cmd.ExecuteContext(w.t.Context())
}

type fakeEngine struct{ w *world }

func (f fakeEngine) Close() error { return nil }

func (f fakeEngine) ContainerList(context.Context, client.ContainerListOptions) (r client.ContainerListResult, err error) {
	if f.w.onContainers != nil {
		f.w.onContainers()
	}
	for _, c := range f.w.containers {
		r.Items = append(r.Items, c.Summary)
	}
	return r, f.w.fail["ContainerList"]
}

func (f fakeEngine) VolumeInspect(_ context.Context, name string, _ client.VolumeInspectOptions) (r client.VolumeInspectResult, err error) {
	bare, _, _ := strings.Cut(name, "@")
	_, drover := f.w.volumes[bare]
	switch {
	case f.w.local[name]:
		r.Volume.Driver, r.Volume.Mountpoint = "local", f.w.folder("local", name)
	case drover:
		r.Volume.Driver = "drover"
	default:
		return r, errdefs.ErrNotFound
	}
	r.Volume.Name = name
	return r, f.w.fail["VolumeInspect"]
}

func (f fakeEngine) ContainerInspect(context.Context, string, client.ContainerInspectOptions) (r client.ContainerInspectResult, err error) {
	r.Container.Config = &container.Config{Image: cmp.Or(f.w.image, "x"), Env: []string{"PATH=/bin", cmp.Or(f.w.env, "P=s3cret$1")}}
	return r, f.w.fail["ContainerInspect"]
}

func (w *world) folder(kind, name string) string { return filepath.Join(w.root, kind, name) }

func (w *world) mkdir(path string) {
	w.t.Helper()
	require.NoError(w.t, os.MkdirAll(path, 0o755))
}

// write writes a file below the project's folder.
func (w *world) write(path, text string) {
	w.t.Helper()
	if !filepath.IsAbs(path) {
		path = filepath.Join(w.dir, path)
	}
	w.mkdir(filepath.Dir(path))
	require.NoError(w.t, os.WriteFile(path, []byte(text), 0o640))
}

func (w *world) read(path string) string {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, path))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	return string(text)
}

// composition is a project with the files that docker compose reads.
type composition struct {
	Project
	Files []string
}

// compose is docker compose.
func (w *world) compose(ctx context.Context, dir string, args ...string) ([]byte, error) {
	p := composition{Project: Project{Name: "shop", Dir: dir}}
	command, services, noStart := "", map[string]int{}, false
	for n, a := range args {
		switch {
		case a == "--file":
			p.Files = append(p.Files, args[n+1])
		case a == "config" || a == "stop" || a == "up":
			command = a
		case a == "--scale":
			name, _, _ := strings.Cut(args[n+1], "=")
			services[name] = 1
		case a == "--no-start":
			noStart = true
		}
	}
	if len(p.Files) == 0 {
		p.Files = append([]string{filepath.Join(dir, "compose.yaml")}, w.finds...)
		if o := filepath.Join(dir, "compose.override.yaml"); !w.hidesOverride && isThere(o) {
			p.Files = append(p.Files, o)
		}
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case command == "config":
		return w.config(p)
	case command == "stop":
		return nil, w.act(command, func() {
			for n, c := range w.containers {
				if p.has(c) {
					w.containers[n].State = "exited"
				}
			}
		})
	}
	return nil, w.up(p, services, noStart)
}

// config is what docker compose config does with the files of these tests: mappings are merged, and mounts by target.
func (w *world) config(p composition) ([]byte, error) {
	if w.onConfig != nil {
		w.onConfig()
	}
	if err := w.fail["config"]; err != nil {
		return nil, err
	}
	services, volumes := map[string]any{}, map[string]any{}
	out := map[string]any{"name": p.Name, "services": services, "volumes": volumes}
	for n, path := range p.Files {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if n > 0 && w.ignoresOverrides {
			continue
		}
		var doc struct {
			Services map[string]struct{ Volumes []any }
			Volumes  map[string]map[string]any
		}
		if err := yaml.Unmarshal(bytes.ReplaceAll(text, []byte("!reset null"), []byte("RESET")), &doc); err != nil {
			return nil, err
		}
		for name, s := range doc.Services {
			mounts := []any{}
			if old, ok := services[name]; ok {
				mounts = old.(map[string]any)["volumes"].([]any)
			}
			for _, v := range s.Volumes {
				m := w.mount(p, v)
				i := slices.IndexFunc(mounts, func(o any) bool { return o.(map[string]any)["target"] == m["target"] })
				if i < 0 {
					i, mounts = len(mounts), append(mounts, nil)
				}
				mounts[i] = m
			}
			services[name] = map[string]any{"image": "x", "volumes": mounts, "environment": map[string]any{"P": "s3cret$$1", "UNSET": nil}}
		}
		for key, v := range doc.Volumes {
			def, _ := volumes[key].(map[string]any)
			if def == nil {
				def = map[string]any{"name": p.Name + "_" + key}
			}
			maps.Copy(def, v)
			maps.DeleteFunc(def, func(_ string, v any) bool { return v == "RESET" })
			volumes[key] = def
		}
	}
	return json.Marshal(out)
}

func (w *world) mount(p composition, v any) map[string]any {
	m, long := v.(map[string]any)
	if !long {
		parts := append(strings.Split(v.(string), ":"), "")
		m = map[string]any{"type": "volume", "source": parts[0], "target": parts[1], "volume": map[string]any{}}
		if strings.HasPrefix(parts[0], ".") || strings.HasPrefix(parts[0], "/") {
			m["type"], m["bind"] = "bind", map[string]any{"create_host_path": true}
			delete(m, "volume")
		}
		if parts[2] == "ro" {
			m["read_only"] = true
		}
	}
	if s, _ := m["source"].(string); m["type"] == "bind" && !filepath.IsAbs(s) {
		m["source"] = filepath.Join(p.Dir, s)
	}
	return m
}

// up starts services as Docker Compose 2.24 does: it makes missing containers, and starts existing ones as they are.
// With noStart it recreates them. The engine starts no container whose folder is a link that leads to itself.
func (w *world) up(p composition, services map[string]int, noStart bool) error {
	text, err := w.config(p)
	if err != nil {
		return err
	}
	m, err := parseModel(text)
	if err != nil {
		return err
	}
	name, state := "up", container.ContainerState("running")
	if noStart {
		name, state = "recreate", "created"
	}
	var failed error
	err = w.act(name, func() {
		for _, s := range slices.Sorted(maps.Keys(services)) {
			i := slices.IndexFunc(w.containers, func(c Container) bool { return p.has(c) && c.service() == s })
			if _, ok := m.Services[s]; !ok {
				failed = dataset.Errorf(dataset.ErrConflict, "no such service: %s", s)
				continue
			}
			if i < 0 || noStart {
				i = w.container(p, m, s)
			}
			for _, x := range w.containers[i].Mounts {
				if _, err := os.Stat(x.Source); x.Driver != "drover" && err != nil && !noStart {
					failed = err
				}
			}
			if w.containers[i].State = state; failed != nil {
				w.containers[i].State = "created"
			}
		}
		if name == "up" && w.afterUp != nil {
			w.afterUp()
		}
	})
	return cmp.Or(err, failed)
}

// container makes the container of a service, or replaces it.
func (w *world) container(p composition, m model, service string) int {
	c := Container{container.Summary{ID: p.Name + "-" + service, Names: []string{"/" + p.Name + "-" + service + "-1"}, Labels: map[string]string{
		labelProject: p.Name, labelService: service, labelDir: p.Dir, labelFiles: strings.Join(p.Files, ","),
	}}}
	for _, x := range m.Services[service].Volumes {
		y := container.MountPoint{Source: x.Source, Destination: x.Target, RW: !x.ReadOnly, Type: "bind"}
		if x.Type == "volume" {
			y.Type, y.Name, y.Driver = "volume", m.Volumes[x.Source].Name, "local"
			y.Source = w.folder("local", y.Name)
			if bare, _, _ := strings.Cut(y.Name, "@"); !w.volumes[bare].Created.IsZero() {
				y.Driver = "drover"
			}
			if !w.local[y.Name] && y.Driver == "local" {
				w.local[y.Name] = true
				w.mkdir(y.Source)
			}
		}
		c.Mounts = append(c.Mounts, y)
	}
	w.containers = slices.DeleteFunc(w.containers, func(o Container) bool { return o.name() == c.name() })
	w.containers = append(w.containers, c)
	return len(w.containers) - 1
}

// fakeRemote is Drover: its volumes are folders.
type fakeRemote struct {
	cli.Remote
	w *world
}

func (f fakeRemote) Volume(_ context.Context, ref string) (api.Volume, error) {
	ref, _, _ = strings.Cut(ref, "@")
	if v, ok := f.w.volumes[ref]; ok {
		return v, nil
	}
	return api.Volume{}, cmp.Or[error](f.w.fail["Volume"], dataset.Errorf(dataset.ErrNotFound, "no such volume: %q", ref))
}

func (f fakeRemote) Operation(_ context.Context, id string, _ time.Duration) (dataset.Operation, error) {
	op := f.w.operations[uuid.MustParse(id)]
	if !op.State.Final() {
		f.w.finish(op)
	}
	return f.w.operations[op.ID], nil
}

func (f fakeRemote) CancelOperation(_ context.Context, id string) (dataset.Operation, error) {
	op, ok := f.w.operations[uuid.MustParse(id)]
	if !ok {
		return op, dataset.Errorf(dataset.ErrNotFound, "no such operation")
	}
	op.State = dataset.OpCancelled
	f.w.operations[op.ID] = op
	return op, f.w.fail["CancelOperation"]
}

func (f fakeRemote) Submit(_ context.Context, req api.Request) (api.Outcome, error) {
	name, profile, _ := strings.Cut(req.Volume, "@")
	profile = cmp.Or(profile, "bronze")
	if op, ok := f.w.operations[req.ID]; ok {
		return api.Outcome{Operation: &op}, nil
	}
	if profile == "glod" {
		return api.Outcome{}, dataset.Errorf(dataset.ErrInvalid, `unknown profile "glod"`)
	}
	if _, ok := f.w.volumes[name]; ok {
		return api.Outcome{}, dataset.Errorf(dataset.ErrExists, "volume %q exists already", name)
	}
	op := dataset.Operation{ID: req.ID, Kind: req.Kind, Volume: name, Path: req.Path, State: dataset.OpRunning, DatasetRecord: &dataset.Dataset{
		Volume: name, Profile: dataset.Profile{Name: profile}, Size: f.w.size, Request: req.ID, ID: req.ID, Created: time.Unix(1, 0),
	}}
	if req.DryRun {
		return api.Outcome{Operation: &op}, nil
	}
	err := f.w.act("Submit", func() { f.w.operations[op.ID] = op })
	return api.Outcome{Operation: &op}, err
}

// finish copies the data of an import, and ends it.
func (w *world) finish(op dataset.Operation) {
	w.t.Helper()
	op.State = dataset.OpDone
	if err := w.fail["import"]; err != nil {
		op.State, op.Problem = dataset.OpFailed, dataset.ProblemOf(err)
		w.operations[op.ID] = op
		return
	}
	to := w.folder("drover", op.Volume)
	w.mkdir(to)
	require.NoError(w.t, copyTree(w.t.Context(), op.Path, to))
	w.volumes[op.Volume] = api.Volume{Dataset: *op.DatasetRecord}
	w.operations[op.ID] = op
}

func copyTree(ctx context.Context, from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Open(to)
	if err != nil {
		return err
	}
	defer dst.Close()
	return tree.Copy(ctx, src, dst, func(int64) {})
}

// journal returns the path of the journal of project shop.
func (w *world) journal() string { return journalPath(w.journals, Project{Name: "shop", Dir: w.dir}) }

func (f fakeRemote) Volumes(context.Context, api.Page) (api.List[api.Volume], error) {
	return api.List[api.Volume]{}, nil
}
