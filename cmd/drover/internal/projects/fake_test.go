package projects

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.yaml.in/yaml/v3"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/composefile"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree"
)

// killed is the panic with which a test ends a run of the command, like kill -9.
type killed struct{ place string }

// world is a host with an engine, docker compose and a Drover, as fakes that work on folders.
type world struct {
	t    *testing.T
	dir  string // the folder of the project
	root string // the folder of volumes
	// journals is the folder of the journals.
	journals string

	containers []Container
	local      map[string]Volume     // local volumes and those of Drover, by name for the engine
	volumes    map[string]api.Volume // volumes of Drover, by name
	operations map[uuid.UUID]dataset.Operation
	fail       map[string]error // by method
	env        map[string]string
	mounted    []string // mount points
	size       dataset.Size

	afterUp         func()            // is called at the end of each start
	onContainers    func()            // is called for each list of the containers
	image, variable string            // of the containers that run
	version         string            // of Docker Compose
	states          map[string]string // of the containers of a service, after a start
	keepsContainers bool              // Docker Compose recreates nothing

	places   []string // that were passed
	killAt   int      // the number of the place at which the command is killed; 0: none
	cancelAt string   // the place at which the user presses Ctrl-C
	cancel   context.CancelFunc
	out, err bytes.Buffer
	ids      int
	noted    []string // effects of fakes, in order
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, dir: t.TempDir(), root: t.TempDir(), journals: t.TempDir(), local: map[string]Volume{}, volumes: map[string]api.Volume{},
		operations: map[uuid.UUID]dataset.Operation{}, fail: map[string]error{}, env: map[string]string{"HOME": "/root"}, size: dataset.GiB,
	}
	return w
}

// at is a place between two acts.
func (w *world) at(place string) {
	w.places = append(w.places, place)
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
			return uuid.MustParse("00000000-0000-4000-8000-" + strconv.Itoa(100000000000+w.ids))
		},
		Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
		Signals: func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, w.cancel = context.WithCancel(ctx)
			return ctx, w.cancel
		},
		Dial: func(string) (cli.Remote, error) { return fakeRemote{w: w}, nil },
	}
	cmd := Command(a, Host{
		Engine: func() (Engine, error) { return fakeEngine{w}, nil }, Compose: fakeCompose{w}, At: w.at, Journals: w.journals,
		MountPoints: func(dir string) ([]string, error) {
			return slices.DeleteFunc(slices.Clone(w.mounted), func(m string) bool { return !isWithin(m, dir) || m == dir }), nil
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

func (f fakeEngine) Containers(context.Context) ([]Container, error) {
	if f.w.onContainers != nil {
		f.w.onContainers()
	}
	return slices.Clone(f.w.containers), f.w.fail["Containers"]
}

func (f fakeEngine) Volume(_ context.Context, name string) (Volume, error) {
	if v, ok := f.w.local[name]; ok {
		return v, nil
	}
	bare, _, _ := strings.Cut(name, "@")
	if _, ok := f.w.volumes[bare]; ok {
		return Volume{Name: name, Driver: "drover"}, nil
	}
	return Volume{}, dataset.Errorf(dataset.ErrNotFound, "no such Docker volume: %q", name)
}

func (f fakeEngine) Folder(_ context.Context, name string) (string, error) {
	return f.w.folder("local", name), f.w.fail["Folder"]
}

func (w *world) folder(kind, name string) string { return filepath.Join(w.root, kind, name) }

func (f fakeEngine) CreateVolume(_ context.Context, name string, labels map[string]string) (v Volume, err error) {
	return v, f.w.act("CreateVolume", func() {
		f.w.mkdir(f.w.folder("local", name))
		f.w.local[name] = Volume{name, "local", labels}
	})
}

func (f fakeEngine) RemoveVolume(_ context.Context, name string) error {
	return f.w.act("RemoveVolume", func() {
		if err := os.RemoveAll(f.w.folder("local", name)); err != nil {
			f.w.t.Fatal(err)
		}
		delete(f.w.local, name)
	})
}

func (w *world) mkdir(path string) {
	w.t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		w.t.Fatal(err)
	}
}

// write writes a file below the project's folder.
func (w *world) write(path, text string) {
	w.t.Helper()
	if !filepath.IsAbs(path) {
		path = filepath.Join(w.dir, path)
	}
	w.mkdir(filepath.Dir(path))
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) read(path string) string {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, path))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	return string(text)
}

func (f fakeEngine) Settings(_ context.Context, name string) (image string, env []string, err error) {
	for _, c := range f.w.containers {
		if c.Name == name {
			text, err := fakeCompose(f).Config(context.Background(), Project{Name: c.Project, Dir: f.w.dir}, split(c.Labels[labelFiles]))
			if err != nil {
				return "", nil, err
			}
			m, err := parseModel(text)
			return cmp.Or(f.w.image, m.settings[c.Service].image), []string{"PATH=/bin", "P=" + cmp.Or(f.w.variable, "s3cret$1")}, err
		}
	}
	return "", nil, dataset.Errorf(dataset.ErrNotFound, "no such container")
}

type fakeCompose struct{ w *world }

// Config is what docker compose config does with the files of these tests: mappings are merged, lists are appended.
func (f fakeCompose) Config(_ context.Context, p Project, files []string) ([]byte, error) {
	if err := f.w.fail["Config"]; err != nil {
		return nil, err
	}
	out := map[string]any{"name": p.Name, "services": map[string]any{}, "volumes": map[string]any{}}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var doc struct {
			Services map[string]struct {
				Image   string
				Volumes []any
			}
			Volumes map[string]map[string]any
		}
		if err := yaml.Unmarshal(text, &doc); err != nil {
			return nil, err
		}
		for name, s := range doc.Services {
			var mounts []any
			for _, v := range s.Volumes {
				mounts = append(mounts, f.mount(p, v))
			}
			out["services"].(map[string]any)[name] = map[string]any{"image": s.Image, "volumes": mounts, "environment": map[string]any{"P": "s3cret$$1", "UNSET": nil}}
		}
		for key, v := range doc.Volumes {
			def := map[string]any{"name": p.Name + "_" + key}
			maps.Copy(def, v)
			out["volumes"].(map[string]any)[key] = def
		}
	}
	return json.Marshal(out)
}

func (f fakeCompose) mount(p Project, v any) map[string]any {
	m, long := v.(map[string]any)
	if !long {
		source, target, mode := composefile.SplitShort(v.(string))
		source, _ = composefile.Interpolate(source, f.w.env)
		m = map[string]any{"type": "volume", "target": target, "source": source, "volume": map[string]any{}}
		if strings.HasPrefix(source, ".") || strings.HasPrefix(source, "/") {
			m["type"], m["bind"] = "bind", map[string]any{"create_host_path": true}
			delete(m, "volume")
		}
		for option := range strings.SplitSeq(mode, ",") {
			switch option {
			case "ro":
				m["read_only"] = true
			case "nocopy":
				m["volume"] = map[string]any{"nocopy": true}
			}
		}
	}
	if s, _ := m["source"].(string); m["type"] == "bind" && !filepath.IsAbs(s) {
		m["source"] = filepath.Join(p.Dir, s)
	}
	return m
}

func (f fakeCompose) Environment(context.Context, Project) (map[string]string, error) {
	return f.w.env, f.w.fail["Environment"]
}

func (f fakeCompose) Stop(ctx context.Context, p Project) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return f.w.act("Stop", func() {
		for n, c := range f.w.containers {
			if c.Project == p.Name && !c.OneOff {
				f.w.containers[n].State = "exited"
			}
		}
	})
}

func (f fakeCompose) Version(context.Context) (string, error) {
	return cmp.Or(f.w.version, "2.24.0"), f.w.fail["Version"]
}

// Recreate makes the containers of services with the mounts of the files.
func (f fakeCompose) Recreate(ctx context.Context, p Project, services map[string]int) error {
	return f.with(ctx, "Recreate", p, services, func(m model, s string) {
		if !f.w.keepsContainers {
			f.w.container(p, m, s, "created")
		}
	})
}

// Up starts services as Docker Compose 2.24 does: it makes missing containers, and starts existing ones as they are.
func (f fakeCompose) Up(ctx context.Context, p Project, services map[string]int) error {
	return f.with(ctx, "Up", p, services, func(m model, s string) {
		found := false
		for n, c := range f.w.containers {
			if c.Project == p.Name && c.Service == s && !c.OneOff {
				f.w.containers[n].State, found = cmp.Or(f.w.states[s], "running"), true
			}
		}
		if !found {
			f.w.container(p, m, s, cmp.Or(f.w.states[s], "running"))
		}
	})
}

// with does something with each of the services, if all of them exist.
func (f fakeCompose) with(ctx context.Context, act string, p Project, services map[string]int, do func(model, string)) error {
	text, err := f.Config(ctx, p, p.Files)
	if err != nil {
		return err
	}
	m, err := parseModel(text)
	if err != nil {
		return err
	}
	for s := range services {
		if _, ok := m.services[s]; !ok {
			return dataset.Errorf(dataset.ErrConflict, "no such service: %s", s)
		}
		if err := f.w.fail[act+" "+s]; err != nil {
			return err
		}
	}
	return f.w.act(act, func() {
		for s := range services {
			do(m, s)
		}
		if act == "Up" && f.w.afterUp != nil {
			f.w.afterUp()
		}
	})
}

// container makes the container of a service, or replaces it.
func (w *world) container(p Project, m model, service, state string) {
	c := Container{Name: p.Name + "-" + service + "-1", State: state, Project: p.Name, Service: service, Labels: map[string]string{
		labelProject: p.Name, labelService: service, labelDir: p.Dir, labelFiles: strings.Join(p.Files, ","),
	}}
	for _, x := range m.services[service] {
		y := Mount{Type: x.Type, Source: x.Source, Target: x.Target, ReadOnly: x.ReadOnly}
		if x.Type == "volume" {
			y.Name = m.volumes[x.Source].Name
			y.Source = w.folder("local", y.Name)
		}
		c.Mounts = append(c.Mounts, y)
	}
	w.containers = slices.DeleteFunc(w.containers, func(o Container) bool { return o.Name == c.Name })
	w.containers = append(w.containers, c)
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
	if err := f.w.fail["Operation"]; err != nil {
		return dataset.Operation{}, err
	}
	if op, ok := f.w.operations[uuid.MustParse(id)]; ok {
		if !op.State.Final() {
			f.w.finish(op)
			op = f.w.operations[op.ID]
		}
		return op, nil
	}
	return dataset.Operation{}, dataset.Errorf(dataset.ErrNotFound, "no such operation")
}

func (f fakeRemote) CancelOperation(_ context.Context, id string) (dataset.Operation, error) {
	op := f.w.operations[uuid.MustParse(id)]
	op.State = dataset.OpCancelled
	f.w.operations[op.ID] = op
	return op, nil
}

func (f fakeRemote) Submit(_ context.Context, req api.Request) (api.Outcome, error) {
	name, profile, _ := strings.Cut(req.Volume, "@")
	if profile == "" {
		profile = "bronze"
	}
	if profile == "glod" {
		return api.Outcome{}, dataset.Errorf(dataset.ErrInvalid, `unknown profile "glod"`)
	}
	if _, ok := f.w.volumes[name]; ok {
		return api.Outcome{}, dataset.Errorf(dataset.ErrExists, "volume %q exists already", name)
	}
	op := dataset.Operation{ID: req.ID, Kind: req.Kind, Volume: name, Path: req.Path, State: dataset.OpRunning, DatasetRecord: &dataset.Dataset{
		Volume: name, Profile: dataset.Profile{Name: profile}, Size: f.w.size, Request: req.ID, ID: req.ID,
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
	to := w.folder("drover", op.Volume)
	if err := w.fail["import"]; err != nil {
		op.State, op.Problem = dataset.OpFailed, dataset.ProblemOf(err)
		w.operations[op.ID] = op
		return
	}
	w.mkdir(to)
	if op.Kind == dataset.OpImport {
		var b bytes.Buffer
		err := tarOf(w.t.Context(), op.Path, &b)
		var dir *os.File
		if err == nil {
			dir, err = os.Open(to)
		}
		if err == nil {
			err = tree.ReadTar(w.t.Context(), &b, dir)
			dir.Close()
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	w.volumes[op.Volume] = api.Volume{Dataset: *op.DatasetRecord}
	op.State = dataset.OpDone
	w.operations[op.ID] = op
}

func tarOf(ctx context.Context, path string, to io.Writer) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return tree.WriteTar(ctx, dir, to)
}

func (f fakeRemote) Export(ctx context.Context, ref, _ string, to io.Writer) (api.OmittedFiles, error) {
	ref, _, _ = strings.Cut(ref, "@")
	if err := f.w.fail["Export"]; err != nil {
		return api.OmittedFiles{}, err
	}
	return api.OmittedFiles{}, tarOf(ctx, f.w.folder("drover", ref), to)
}

func (f fakeRemote) Volumes(context.Context, api.Page) (api.List[api.Volume], error) {
	return api.List[api.Volume]{}, nil
}

// journal returns the path of the journal of project shop.
func (w *world) journal() string { return journalPath(w.journals, w.dir, "shop") }
