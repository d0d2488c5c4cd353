package projects

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/droverhq/drover/cmd/drover/internal/engine"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/steps"
)

// Host is what the command uses on this host besides Drover's API.
type Host struct {
	Engine  func() (Engine, error) // the caller closes it
	Compose Compose
	// Journals is the folder of the journals. Only root can write to it.
	Journals string
	// MountPoints returns the mount points below a directory, without the directory itself.
	MountPoints func(dir string) ([]string, error)
	// At is called between two actions, with the name of the place in the code. Tests interrupt the command there.
	At func(place string)
}

// Engine is the part of a container engine that the command uses.
type Engine interface {
	// Containers returns all containers, also those that do not run.
	Containers(ctx context.Context) ([]Container, error)
	// Settings returns the image of a container, as its creator named it, and its environment, as NAME=VALUE. The
	// environment contains secrets.
	Settings(ctx context.Context, container string) (image string, env []string, err error)
	// Volume returns a volume. It fails with dataset.ErrNotFound if there is none.
	Volume(ctx context.Context, name string) (Volume, error)
	// Folder returns the folder with the data of a volume of driver local; see engine.Path.
	Folder(ctx context.Context, name string) (string, error)
	CreateVolume(ctx context.Context, name string, labels map[string]string) (Volume, error)
	RemoveVolume(ctx context.Context, name string) error
	Close() error
}

// Container is a container of the engine.
type Container struct {
	Name    string
	State   string // such as running, restarting, exited
	Health  string // starting, healthy, unhealthy, or empty
	Labels  map[string]string
	Mounts  []Mount
	Project string
	Service string
	OneOff  bool // made by docker compose run
}

// Running reports whether processes of a container may run.
func (c Container) Running() bool {
	return c.State == "running" || c.State == "restarting" || c.State == "paused"
}

func (c Container) stopped() bool { return !c.Running() }

// Mount is a mount of a container.
type Mount struct {
	Type     string // bind, volume, tmpfs …
	Name     string // of a volume
	Source   string // path on the host
	Target   string // path in the container
	ReadOnly bool
	Driver   string // of a volume
}

// Volume is a volume of the engine.
type Volume struct {
	Name, Driver string
	Labels       map[string]string
}

// Compose runs docker compose.
type Compose interface {
	// Config returns the whole configuration of a project in JSON, with the services of all profiles. It contains
	// secrets.
	Config(ctx context.Context, p Project, files []string) ([]byte, error)
	// Environment returns the variables that Compose interpolates. It contains secrets.
	Environment(ctx context.Context, p Project) (map[string]string, error)
	// Stop stops all containers of a project. It reads no Compose file.
	Stop(ctx context.Context, p Project) error
	// Version returns the version of Docker Compose, such as 2.40.3.
	Version(ctx context.Context) (string, error)
	// Recreate replaces the containers of services by new ones, with a number of containers each. It does not start
	// them, and it does not touch the services that they depend on.
	Recreate(ctx context.Context, p Project, services map[string]int) error
	// Up starts services, with a number of containers each. An early Docker Compose starts an existing container
	// although its volume has another name now, so the caller recreates such containers first.
	Up(ctx context.Context, p Project, services map[string]int) error
}

// Project is where a Compose project is.
type Project struct {
	Name     string   `json:"name"`
	Dir      string   `json:"dir"`
	Files    []string `json:"files"` // absolute, the first one first
	EnvFiles []string `json:"env_files,omitempty"`
}

// The labels with which Compose describes its containers and volumes.
const (
	labelProject = "com.docker.compose.project"
	labelService = "com.docker.compose.service"
	labelOneOff  = "com.docker.compose.oneoff"
	labelDir     = "com.docker.compose.project.working_dir"
	labelFiles   = "com.docker.compose.project.config_files"
	labelEnv     = "com.docker.compose.project.environment_file"
	labelVolume  = "com.docker.compose.volume"
)

// ThisHost returns the host on which the program runs.
func ThisHost() Host {
	return Host{
		Engine: func() (Engine, error) {
			c, err := engine.Open()
			if err != nil {
				return nil, err
			}
			return dockerEngine{c}, nil
		},
		Compose:  dockerCompose{&run.System{}},
		Journals: "/var/lib/drover-projects",
		MountPoints: func(dir string) ([]string, error) {
			table, err := mount.Table()
			if err != nil {
				return nil, err
			}
			var points []string
			for _, m := range table.Under(dir) {
				if m.Mountpoint != dir {
					points = append(points, m.Mountpoint)
				}
			}
			return points, nil
		},
		At: func(place string) { steps.At("adopt-project." + place) },
	}
}

// dockerEngine is the Docker engine of this host.
type dockerEngine struct{ client *client.Client }

func (d dockerEngine) Close() error { return d.client.Close() }

func (d dockerEngine) Containers(ctx context.Context) ([]Container, error) {
	list, err := d.client.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrUnavailable, "list the containers of the engine: %w", err)
	}
	out := make([]Container, 0, len(list.Items))
	for _, s := range list.Items {
		c := Container{
			Name: s.ID[:min(12, len(s.ID))], State: string(s.State), Labels: s.Labels, Project: s.Labels[labelProject],
			Service: s.Labels[labelService], OneOff: strings.EqualFold(s.Labels[labelOneOff], "true"),
		}
		for _, n := range s.Names {
			if n = strings.TrimPrefix(n, "/"); !strings.Contains(n, "/") {
				c.Name = n
			}
		}
		if s.Health != nil {
			c.Health = string(s.Health.Status)
		}
		for _, m := range s.Mounts {
			c.Mounts = append(c.Mounts, Mount{string(m.Type), m.Name, m.Source, m.Destination, !m.RW, m.Driver})
		}
		out = append(out, c)
	}
	return out, nil
}

func (d dockerEngine) Settings(ctx context.Context, container string) (image string, env []string, err error) {
	r, err := d.client.ContainerInspect(ctx, container, client.ContainerInspectOptions{})
	switch {
	case err != nil:
		return "", nil, dataset.Errorf(dataset.ErrUnavailable, "inspect container %s: %w", container, err)
	case r.Container.Config == nil:
		return "", nil, dataset.Errorf(dataset.ErrUnavailable, "inspect container %s: the engine returned no "+
			"configuration", container)
	}
	return r.Container.Config.Image, r.Container.Config.Env, nil
}

func (d dockerEngine) Volume(ctx context.Context, name string) (Volume, error) {
	v, err := d.client.VolumeInspect(ctx, name, client.VolumeInspectOptions{})
	switch {
	case errdefs.IsNotFound(err):
		return Volume{}, dataset.Errorf(dataset.ErrNotFound, "no such Docker volume: %q", name)
	case err != nil:
		return Volume{}, dataset.Errorf(dataset.ErrUnavailable, "inspect Docker volume %q: %w", name, err)
	}
	return Volume{v.Volume.Name, v.Volume.Driver, v.Volume.Labels}, nil
}

func (d dockerEngine) Folder(ctx context.Context, name string) (string, error) {
	return engine.Path(ctx, d.client, name, true)
}

func (d dockerEngine) CreateVolume(ctx context.Context, name string, labels map[string]string) (Volume, error) {
	v, err := d.client.VolumeCreate(ctx, client.VolumeCreateOptions{Name: name, Driver: "local", Labels: labels})
	if err != nil {
		return Volume{}, dataset.Errorf(dataset.ErrUnavailable, "create Docker volume %q: %w", name, err)
	}
	return Volume{v.Volume.Name, v.Volume.Driver, v.Volume.Labels}, nil
}

func (d dockerEngine) RemoveVolume(ctx context.Context, name string) error {
	if _, err := d.client.VolumeRemove(ctx, name, client.VolumeRemoveOptions{}); err != nil {
		return dataset.Errorf(dataset.ErrUnavailable, "remove the incomplete Docker volume %q: %w", name, err)
	}
	return nil
}

// The time limits of docker compose. A stop waits for the grace period of each container, and a start for health
// checks of dependencies.
const (
	readTimeout  = time.Minute
	stopTimeout  = 30 * time.Minute
	startTimeout = 30 * time.Minute
	cleanupTime  = 10 * time.Second
)

// dockerCompose runs the Compose plugin of the docker command.
type dockerCompose struct{ runner run.Runner }

func (d dockerCompose) do(ctx context.Context, what string, p Project, timeout time.Duration, args ...string) ([]byte,
	error) {
	var out bytes.Buffer
	_, err := d.runner.Run(ctx, run.Command{
		Name: "docker", Args: append([]string{"compose"}, args...), Dir: p.Dir, Timeout: timeout, Stdout: &out,
		Interrupt: cleanupTime,
	})
	err = withoutValues(err)
	switch {
	case err != nil && p.Name == "":
		return nil, dataset.Errorf(dataset.ErrConflict, "%s: %w", what, err)
	case err != nil:
		return nil, dataset.Errorf(dataset.ErrConflict, "%s of project %s: %w", what, p.Name, err)
	}
	return out.Bytes(), nil
}

// quotes are texts behind which Docker Compose quotes a value of a Compose file or an env file. The value can be a
// secret.
var quotes = []string{"You may need to escape", "unterminated quoted value", " near ", "parsing \"", "invalid value"}

// withoutValues removes from the error of a command what Docker Compose quotes.
func withoutValues(err error) error {
	var failed *run.Error
	if !errors.As(err, &failed) {
		return err
	}
	out := *failed
	for _, q := range quotes {
		if before, _, found := strings.Cut(out.Stderr, q); found {
			out.Stderr = strings.TrimSpace(before) + " (docker compose config shows the value)"
		}
	}
	return &out
}

// flags returns the flags that name a project and files.
func flags(p Project, files []string) []string {
	out := []string{"--project-name", p.Name, "--project-directory", p.Dir}
	for _, f := range p.EnvFiles {
		out = append(out, "--env-file", f)
	}
	for _, f := range files {
		out = append(out, "--file", f)
	}
	return out
}

func (d dockerCompose) Config(ctx context.Context, p Project, files []string) ([]byte, error) {
	return d.do(ctx, "read the Compose files", p, readTimeout,
		append(flags(p, files), "--profile", "*", "config", "--format", "json")...)
}

func (d dockerCompose) Environment(ctx context.Context, p Project) (map[string]string, error) {
	out, err := d.do(ctx, "read the variables", p, readTimeout,
		append(flags(p, p.Files), "config", "--environment")...)
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if name, v, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "="); ok {
			env[name] = v
		}
	}
	return env, nil
}

func (d dockerCompose) Stop(ctx context.Context, p Project) error {
	_, err := d.do(ctx, "stop the containers", p, stopTimeout, "--progress", "quiet", "--project-name", p.Name, "stop")
	return err
}

func (d dockerCompose) Version(ctx context.Context) (string, error) {
	out, err := d.do(ctx, "find out the version of Docker Compose", Project{}, readTimeout, "version", "--short")
	return strings.TrimSpace(string(out)), err
}

func (d dockerCompose) Recreate(ctx context.Context, p Project, services map[string]int) error {
	args := append(flags(p, p.Files), "--progress", "quiet", "--profile", "*", "up", "--no-start", "--force-recreate",
		"--no-deps", "--pull", "missing")
	names := slices.Sorted(maps.Keys(services))
	for _, s := range names {
		args = append(args, "--scale", s+"="+strconv.Itoa(services[s]))
	}
	_, err := d.do(ctx, "recreate the containers", p, startTimeout, append(append(args, "--"), names...)...)
	return err
}

func (d dockerCompose) Up(ctx context.Context, p Project, services map[string]int) error {
	args := append(flags(p, p.Files), "--progress", "quiet", "--profile", "*", "up", "--detach", "--pull", "missing")
	names := slices.Sorted(maps.Keys(services))
	for _, s := range names {
		if services[s] > 1 {
			args = append(args, "--scale", s+"="+strconv.Itoa(services[s]))
		}
	}
	_, err := d.do(ctx, "start the containers", p, startTimeout, append(append(args, "--"), names...)...)
	return err
}
