// Package engine asks the Docker engine of this host for three things: the folder of a volume of driver local, so that
// the volume can be imported (Path), the names of the running containers (Names), and its version (Version). Package
// main passes them to the commands as App.DockerPath, App.ContainerNames and App.EngineVersion. Package projects calls
// Open and Path. While Drover's daemon
// serves a request, it must not wait for the engine, because the engine may be waiting for the daemon (invariant I10 in
// docs/invariants.md). In the background, package daemon connects to the engine with Open. The package keeps no state.
package engine

import (
	"context"
	"path/filepath"
	"sort"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/droverhq/drover/dataset"
)

// API is the part of Docker's API that Path and Names use.
type API interface {
	VolumeInspect(ctx context.Context, name string, o client.VolumeInspectOptions) (client.VolumeInspectResult, error)
	ContainerList(ctx context.Context, o client.ContainerListOptions) (client.ContainerListResult, error)
}

// Open returns a client of the engine that DOCKER_HOST names, by default that at /var/run/docker.sock. It sends no
// request. It fails with ErrUnsupported for an engine that is not reached through a Unix socket, because the paths of
// such an engine may be paths of another host. It fails with ErrInvalid if DOCKER_HOST is wrong.
func Open() (*client.Client, error) {
	c, err := client.New(client.FromEnv)
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrInvalid, "cannot use the Docker engine of DOCKER_HOST: %w", err)
	}
	if host := c.DaemonHost(); !strings.HasPrefix(host, "unix://") {
		_ = c.Close()
		return nil, dataset.Errorf(dataset.ErrUnsupported,
			"DOCKER_HOST is %s, and docker:VOLUME requires the engine of this host (unset DOCKER_HOST, or pipe a "+
				"tar archive of the volume into --from -)", host)
	}
	return c, nil
}

// Path returns the folder that contains the data of a Docker volume of driver local. Idempotent, and safe for
// concurrent use.
//
// It fails with ErrNotFound if there is no such volume. It fails with ErrUnsupported for other drivers, and for volumes
// that the local driver mounts only while a container uses them. (A bind of a folder is no problem: Path returns that
// folder.) Unless live is set, it fails with ErrInUse if running containers use the folder, and names the containers.
// It fails with ErrUnavailable if the engine does not answer.
func Path(ctx context.Context, c API, name string, live bool) (string, error) {
	v, err := c.VolumeInspect(ctx, name, client.VolumeInspectOptions{})
	switch {
	case errdefs.IsNotFound(err) || err == nil && v.Volume.Name != name:
		return "", dataset.Errorf(dataset.ErrNotFound, "no such Docker volume: %q (docker volume ls lists them)", name)
	case err != nil:
		return "", dataset.Errorf(dataset.ErrUnavailable, "inspect Docker volume %q: %w", name, err)
	}
	path, err := folder(v.Volume.Driver, v.Volume.Mountpoint, v.Volume.Options, name)
	if err != nil || live {
		return path, err
	}
	users, err := containersUsing(ctx, c, name, path)
	if err != nil {
		return "", err
	}
	if len(users) > 0 {
		return "", dataset.Errorf(dataset.ErrInUse,
			"docker volume %q is in use by %s: stop them, or use --live to copy while the data changes", name,
			strings.Join(users, ", "))
	}
	return path, nil
}

func folder(driver, mountpoint string, options map[string]string, name string) (string, error) {
	if driver != "local" {
		return "", dataset.Errorf(dataset.ErrUnsupported,
			"docker volume %q has driver %q: only volumes of driver local can be read directly (pipe a tar "+
				"archive of it into --from -)", name, driver)
	}
	device, kind := options["device"], options["type"]
	if device == "" && kind == "" {
		return absolute(mountpoint, name)
	}
	// The driver mounts such a volume only while a container uses it. Otherwise the mountpoint is an empty folder,
	// which must not be taken for the volume.
	for o := range strings.SplitSeq(options["o"], ",") {
		if o == "bind" || o == "rbind" {
			return absolute(device, name)
		}
	}
	return "", dataset.Errorf(dataset.ErrUnsupported,
		"docker volume %q is a mount of %q (type %q) that exists only while a container uses it: mount it "+
			"yourself and use --from PATH", name, device, kind)
}

func absolute(path, name string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", dataset.Errorf(dataset.ErrUnsupported, "docker volume %q: its path %q is not absolute", name, path)
	}
	return filepath.Clean(path), nil
}

// containersUsing returns the names of the running, paused and restarting containers that have mounted the volume, its
// folder, or a part or parent of the folder.
func containersUsing(ctx context.Context, c API, name, path string) ([]string, error) {
	list, err := c.ContainerList(ctx, client.ContainerListOptions{})
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrUnavailable, "list the containers that use Docker volume %q: %w",
			name, err)
	}
	var users []string
	for _, ctr := range list.Items {
		for _, m := range ctr.Mounts {
			if m.Type == "volume" && m.Name == name || m.Source != "" &&
				(isWithin(m.Source, path) || isWithin(path, m.Source)) {
				users = append(users, label(ctr.Names, ctr.ID))
				break
			}
		}
	}
	sort.Strings(users)
	return users, nil
}

func label(names []string, id string) string {
	for _, n := range names {
		// A linked container has the name "/other/alias" too.
		if n = strings.TrimPrefix(n, "/"); n != "" && !strings.Contains(n, "/") {
			return n
		}
	}
	return id
}

func isWithin(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
