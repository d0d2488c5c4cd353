package projects

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

// The lowest version of Docker Compose with the flags that package projects uses: config --environment has it.
const (
	minMajor, minMinor = 2, 24
	minVersion         = "2.24"
)

// versionText matches the beginning of a version, such as 2.40.3, v2.24.5-desktop.1 and 2.26.1+ds1.
var versionText = regexp.MustCompile(`^v?(\d{1,6})\.(\d{1,6})(\D|$)`)

// checkVersion fails with dataset.ErrUnsupported if Docker Compose is too old.
func checkVersion(ctx context.Context, c Compose) error {
	text, err := c.Version(ctx)
	if err != nil {
		return err
	}
	parts := versionText.FindStringSubmatch(text)
	if parts == nil {
		return dataset.Errorf(dataset.ErrUnsupported, "docker compose version --short printed %q, and not a version "+
			"(install Docker Compose %s or later)", dataset.Clip(text), minVersion)
	}
	major, errMajor := strconv.Atoi(parts[1])
	minor, errMinor := strconv.Atoi(parts[2])
	if errMajor != nil || errMinor != nil || major < minMajor || major == minMajor && minor < minMinor {
		return dataset.Errorf(dataset.ErrUnsupported, "docker compose has version %s, and adopt-project needs %s or "+
			"later (upgrade the package docker-compose-plugin)", dataset.Clip(text), minVersion)
	}
	return nil
}

// checkServices fails if the project has a container that runs, and that the command could not start and check again
// after it has stopped it.
func checkServices(p Project, m model, all []Container) error {
	for _, c := range all {
		if c.Project != p.Name || !c.Running() {
			continue
		}
		_, known := m.services[c.Service]
		switch {
		case c.OneOff:
			return dataset.Errorf(dataset.ErrInUse, "container %s was made by docker compose run, so it could not be "+
				"started again (stop it first: docker stop %s)", c.Name, c.Name)
		case !known:
			return dataset.Errorf(dataset.ErrConflict, "container %s is of service %q, which the Compose files do "+
				"not have, so it could not be started again (stop it first: docker stop %s, or name all Compose "+
				"files: --file FILE)", c.Name, dataset.Clip(c.Service), c.Name)
		case c.State != "running":
			return dataset.Errorf(dataset.ErrConflict, "container %s is %s, so the move could not be checked "+
				"(repair it, or stop it first: docker stop %s)", c.Name, c.State, c.Name)
		case c.Health == "unhealthy":
			return dataset.Errorf(dataset.ErrConflict, "container %s is unhealthy, so the move could not be checked "+
				"(repair it, or stop it first: docker stop %s)", c.Name, c.Name)
		}
	}
	return nil
}

// checkContainers fails if a container of the project mounts something else than its Compose file says: a copy would be
// of the wrong data.
func checkContainers(p Project, m model, all []Container) error {
	for _, c := range all {
		if target := m.wrongMount(p, c); target != "" {
			return dataset.Errorf(dataset.ErrConflict, "container %s does not mount at %s what its Compose file "+
				"says (run docker compose up -d first)", c.Name, target)
		}
	}
	return nil
}

// wrongMount returns the target at which a container mounts something else than its Compose file says, or "". It also
// returns "" for containers of other projects, of services that the files do not have, and of docker compose run.
func (m model) wrongMount(p Project, c Container) string {
	mounts, known := m.services[c.Service]
	if c.Project != p.Name || c.OneOff || !known {
		return ""
	}
	for _, want := range mounts {
		if want.Type != "bind" && (want.Type != "volume" || want.Source == "") {
			continue
		}
		i := slices.IndexFunc(c.Mounts, func(x Mount) bool {
			return filepath.Clean(x.Target) == filepath.Clean(want.Target)
		})
		if i >= 0 && c.Mounts[i].Type == want.Type && (want.Type == "bind" &&
			samePath(c.Mounts[i].Source, want.Source) ||
			want.Type == "volume" && c.Mounts[i].Name == m.volumes[want.Source].Name) {
			continue
		}
		return want.Target
	}
	return ""
}

// stale returns the services that have a container with a wrong mount, and how many containers each of them has.
func (m model) stale(p Project, all []Container) map[string]int {
	count, wrong := map[string]int{}, map[string]int{}
	for _, c := range all {
		if c.Project != p.Name || c.OneOff {
			continue
		}
		count[c.Service]++
		if m.wrongMount(p, c) != "" {
			wrong[c.Service] = 0
		}
	}
	for s := range wrong {
		wrong[s] = count[s]
	}
	return wrong
}

// runsWrong returns a container that runs with a wrong mount, or "".
func (m model) runsWrong(p Project, all []Container) string {
	for _, c := range all {
		if c.Running() && m.wrongMount(p, c) != "" {
			return c.Name
		}
	}
	return ""
}

// containerSettings are what a container has from its service besides its mounts. They contain secrets.
type containerSettings struct {
	image string
	env   map[string]string
}

// checkSettings fails if a container that runs has another image or other variables than Docker Compose would give it
// now. Docker Compose takes variables from the environment of the command, which can be another one than that of the
// last start. The error has no value, because a value can be a secret.
func (p *planner) checkSettings(ctx context.Context) error {
	for _, c := range p.all {
		want, known := p.model.settings[c.Service]
		if c.Project != p.project.Name || c.OneOff || !known || !c.Running() {
			continue
		}
		image, env, err := p.engine.Settings(ctx, c.Name)
		if err != nil {
			return err
		}
		what := ""
		if want.image != "" && image != want.image {
			what = "another image"
		}
		for _, name := range slices.Sorted(maps.Keys(want.env)) {
			if !slices.Contains(env, name+"="+want.env[name]) {
				what = "another value of variable " + dataset.Clip(name)
				break
			}
		}
		if what != "" {
			return dataset.Errorf(dataset.ErrConflict, "container %s runs with %s than docker compose would start it "+
				"with now (pass the variables of its start, for example with sudo -E, or run docker compose up -d "+
				"first)", c.Name, what)
		}
	}
	return nil
}

// otherUser returns a container outside of the project that mounts a volume of Drover, under any of its names, or "".
func otherUser(ctx context.Context, remote cli.Remote, p Project, all []Container, volume string) (string, error) {
	v, err := remote.Volume(ctx, volume)
	if err != nil {
		return "", err
	}
	for _, c := range all {
		if c.Project == p.Name {
			continue
		}
		for _, x := range c.Mounts {
			if x.Type != "volume" || x.Driver == "local" {
				continue
			}
			o, err := remote.Volume(ctx, x.Name)
			switch {
			case errors.Is(err, dataset.ErrNotFound), errors.Is(err, dataset.ErrInvalid): // of another driver
			case err != nil:
				return "", err
			case o.ID == v.ID:
				return c.Name, nil
			}
		}
	}
	return "", nil
}
