package projects

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/droverhq/drover/cmd/drover/internal/engine"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/steps"
)

// Host is what the command uses on this host besides Drover's API.
type Host struct {
	Engine func() (Engine, error) // the caller closes it
	// Compose runs docker compose in a folder, and returns its output.
	Compose  func(ctx context.Context, dir string, args ...string) ([]byte, error)
	Journals string // the folder of the journals
	Mounts   func() (mount.Mounts, error)
	// At is called between two actions, with the name of the place in the code. Tests interrupt the command there.
	At func(place string)
}

// Engine is the part of the API of a container engine that the command uses.
type Engine interface {
	engine.API
	io.Closer
	ContainerInspect(context.Context, string, client.ContainerInspectOptions) (client.ContainerInspectResult, error)
}

// ThisHost returns the host on which the program runs.
func ThisHost() Host {
	return Host{
		Engine: func() (Engine, error) { return engine.Open() },
		Compose: func(ctx context.Context, dir string, args ...string) ([]byte, error) {
			var out bytes.Buffer
			_, err := (&run.System{}).Run(ctx, run.Command{
				Name: "docker", Args: append([]string{"compose"}, args...), Dir: dir, Stdout: &out,
				Timeout:   30 * time.Minute, // a start waits for health checks of dependencies
				Interrupt: 10 * time.Second,
			})
			return out.Bytes(), err
		},
		Journals: "/var/lib/drover-projects",
		Mounts:   mount.Table,
		At:       func(place string) { steps.At("adopt-project." + place) },
	}
}

// compose runs docker compose for the project, with the files that it finds if args name none.
func (c *command) compose(ctx context.Context, args ...string) ([]byte, error) {
	flags := []string{"--progress", "quiet", "--project-name", c.name, "--project-directory", c.project.Dir}
	for _, f := range c.project.EnvFiles {
		flags = append(flags, "--env-file", f)
	}
	return c.host.Compose(ctx, c.project.Dir, append(flags, args...)...)
}

// read returns what docker compose config prints, for the files that it finds or those named. The error has no text of
// Compose, which can quote a secret.
func (c *command) read(ctx context.Context, files ...string) (model, error) {
	args := []string{"--profile", "*"}
	for _, f := range files {
		args = append(args, "--file", f)
	}
	text, err := c.compose(ctx, append(args, "config", "--format", "json")...)
	if err != nil {
		return model{}, dataset.Errorf(dataset.ErrConflict, "docker compose cannot read the files of project %s "+
			"in %s (docker compose config shows why; version 2.24 or later is required)", c.name, c.project.Dir)
	}
	return parseModel(text)
}

// stopAll stops all containers of the project. It reads no Compose file.
func (c *command) stopAll(ctx context.Context) error {
	_, err := c.host.Compose(ctx, c.project.Dir, "--progress", "quiet", "--project-name", c.name, "stop")
	if err != nil {
		return dataset.Errorf(dataset.ErrConflict, "stop the containers of project %s: %w", c.name, err)
	}
	return nil
}

// up calls docker compose up for services of a model, with a number of containers each. It names all profiles, because
// Compose 2.24.0 finds no service of a profile with --profile '*'.
func (c *command) up(ctx context.Context, m model, services map[string]int, flags ...string) error {
	if len(services) == 0 {
		return nil
	}
	var args []string
	for _, s := range m.Services {
		for _, p := range s.Profiles {
			args = append(args, "--profile="+p)
		}
	}
	slices.Sort(args)
	args = append(append(slices.Compact(args), "up", "--pull", "missing"), flags...)
	names := slices.Sorted(maps.Keys(services))
	for _, s := range names {
		args = append(args, "--scale", s+"="+strconv.Itoa(services[s]))
	}
	if _, err := c.compose(ctx, append(append(args, "--"), names...)...); err != nil {
		return dataset.Errorf(dataset.ErrConflict, "start the containers of %s: %w", strings.Join(names, ", "), err)
	}
	return nil
}

// Project is where a Compose project is.
type Project struct {
	Name     string   `json:"name"`
	Dir      string   `json:"dir"`
	File     string   `json:"file"` // the Compose file of the user
	EnvFiles []string `json:"env_files,omitempty"`
}

func (p Project) override() string { return filepath.Join(p.Dir, "compose.override.yaml") }

// defaultNames are the names of the Compose files that Docker Compose finds and merges with the override file.
var defaultNames = []string{"compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"}

// The labels with which Compose describes its containers.
const (
	labelProject = "com.docker.compose.project"
	labelService = "com.docker.compose.service"
	labelOneOff  = "com.docker.compose.oneoff"
	labelDir     = "com.docker.compose.project.working_dir"
	labelFiles   = "com.docker.compose.project.config_files"
	labelEnv     = "com.docker.compose.project.environment_file"
)

// Container is a container of the engine.
type Container struct{ container.Summary }

func (c Container) name() string    { return strings.TrimPrefix(append(c.Names, c.ID)[0], "/") }
func (c Container) service() string { return c.Labels[labelService] }

// runs reports whether processes of a container may run.
func (c Container) runs() bool {
	return slices.Contains([]container.ContainerState{"running", "restarting", "paused"}, c.State)
}

// is reports whether a health check of a container has one of these results.
func (c Container) is(h ...container.HealthStatus) bool {
	return c.Health != nil && slices.Contains(h, c.Health.Status)
}

// has reports whether a container is one of the project's services, also if it does not run.
func (p Project) has(c Container) bool {
	return c.Labels[labelProject] == p.Name && !strings.EqualFold(c.Labels[labelOneOff], "true")
}

// running returns how many containers of each service run.
func (p Project) running(all []Container) map[string]int {
	out := map[string]int{}
	for _, c := range all {
		if p.has(c) && c.runs() {
			out[c.service()]++
		}
	}
	return out
}

// containers returns all containers of the engine. The sources of their mounts are without symbolic links: the engine
// reports them as its user wrote them, and two paths can lead to one folder.
func (c *command) containers(ctx context.Context) (all []Container, err error) {
	list, err := c.engine.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrUnavailable, "list the containers of the engine: %w", err)
	}
	for _, s := range list.Items {
		s.Mounts = slices.Clone(s.Mounts)
		for n := range s.Mounts {
			s.Mounts[n].Source = resolved(s.Mounts[n].Source)
		}
		all = append(all, Container{s})
	}
	return all, nil
}

// resolved returns a path without symbolic links, or the path itself if it cannot be resolved.
func resolved(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil && filepath.IsAbs(path) {
		return real
	}
	return path
}

// find returns where a project is: from the labels of its containers or, if there are none, the current folder.
func find(name string, all []Container) (p Project, err error) {
	p.Name = name
	for _, c := range all {
		if name == "" || !p.has(c) {
			continue
		}
		p.Dir = c.Labels[labelDir]
		p.EnvFiles = strings.FieldsFunc(c.Labels[labelEnv], func(r rune) bool { return r == ',' })
		// Containers that a move did not recreate have no label with the override file.
		file := strings.TrimSuffix(c.Labels[labelFiles], ","+p.override())
		if p.File != "" && p.File != file || filepath.Dir(file) != p.Dir ||
			!slices.Contains(defaultNames, filepath.Base(file)) {
			return p, p.refused()
		}
		p.File = file
	}
	if p.Dir == "" {
		p.Dir, err = os.Getwd()
	}
	for _, n := range defaultNames {
		if file := filepath.Join(p.Dir, n); p.File == "" && isThere(file) {
			p.File = file
		}
	}
	if p.File == "" || name == "" || strings.Contains(name, "/") {
		return p, dataset.Errorf(dataset.ErrNotFound, "the engine has no containers of project %q (docker compose ls "+
			"--all lists the projects; without containers, run this in the project's folder)", dataset.Clip(name))
	}
	return p, err
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// refused returns the error for a project whose docker compose would not read the override file.
func (p Project) refused() error {
	return dataset.Errorf(dataset.ErrUnsupported, "project %s is started with -f, COMPOSE_FILE, several files or an "+
		"override file, and adopt-project supports a single file (put all into compose.yaml and run docker compose up "+
		"-d, or move the data by hand: docs/adopting.md)", p.Name)
}

// checkContainers fails if a container of the project mounts something else than its Compose files say, because a copy
// would be of the wrong data. It also fails if a container runs that could not be started again as it is, for example
// because its variables came from the environment of another command.
func (c *command) checkContainers(ctx context.Context) error {
	if err := c.model.checkMounts(c.project, c.all); err != nil {
		return err
	}
	for _, o := range c.all {
		if o.Labels[labelProject] != c.name || !o.runs() {
			continue
		}
		want, known := c.model.Services[o.service()]
		if !known || !c.project.has(o) || o.State != "running" || o.is(container.Unhealthy) {
			return dataset.Errorf(dataset.ErrConflict, "container %s is paused, restarting, unhealthy or no service "+
				"of the file, so it could not be started and checked again (docker stop %s)", o.name(), o.name())
		}
		r, err := c.engine.ContainerInspect(ctx, o.ID, client.ContainerInspectOptions{})
		if err != nil || r.Container.Config == nil {
			return dataset.Errorf(dataset.ErrUnavailable, "inspect container %s: %w", o.name(), err)
		}
		same := want.Image == "" || want.Image == r.Container.Config.Image
		for name, v := range want.Environment {
			// Docker Compose prints each $ twice. A variable without a value is not passed to the container.
			v, ok := v.(string)
			same = same && (!ok || slices.Contains(r.Container.Config.Env, name+"="+strings.ReplaceAll(v, "$$", "$")))
		}
		if !same {
			return dataset.Errorf(dataset.ErrConflict, "docker compose up would give container %s another image or "+
				"other variables (use sudo -E, or run docker compose up -d first)", o.name())
		}
	}
	return nil
}
