package engine

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Loading the images takes an engine 6 to 15 seconds, mostly for flushes. So it is done once for each version of
// the engine and of the images. The cache keeps a template of a data root. A new engine gets a copy whose image
// layers are links into the template, since engines only read them.

// seedImages creates the engine's data root from the template. If there is no template yet, it creates that
// first.
func (e *Engine) seedImages(t testing.TB) error {
	archive, err := Script("image.sh")
	if err != nil {
		return err
	}
	template, err := templatePath(archive)
	if err != nil {
		return err
	}
	unlock, err := lock(filepath.Dir(template))
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(template); errors.Is(err, os.ErrNotExist) {
		if err := makeTemplate(t, archive, template); err != nil {
			return err
		}
	}
	return copyTemplate(template, e.dataRoot)
}

func templatePath(archive string) (string, error) {
	binary, err := dockerd()
	if err != nil {
		return "", err
	}
	version, err := exec.Command(binary, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask dockerd for its version: %w", err)
	}
	key := sha256.Sum256(append(version, archive...))
	return filepath.Join(filepath.Dir(filepath.Dir(archive)), "engines", fmt.Sprintf("%x", key[:8])), nil
}

// lock locks a folder, which it creates, so that no other test process uses it.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// makeTemplate loads the images into a separate engine and keeps that engine's data root. Templates of other
// versions are removed.
func makeTemplate(t testing.TB, archive, template string) error {
	t.Helper()
	// DROVER_CACHE may be shared with other programs.
	old, err := filepath.Glob(filepath.Join(filepath.Dir(template),
		strings.Repeat("[0-9a-f]", len(filepath.Base(template)))+"*"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	e, err := newEngine(t, Options{})
	if err != nil {
		return err
	}
	e.dataRoot = template + ".tmp"
	e.Up(t)
	e.Must(t, "load", "--input", archive)
	e.Stop(t)
	// dockerd bind-mounts its data root to itself if the root is not on a shared mount. It does not find this
	// mount again if / is a chroot or a subvolume.
	if err := unmountUnder(e.dataRoot); err != nil {
		return err
	}
	return os.Rename(e.dataRoot, template)
}

// copyTemplate copies a data root. cp handles the differences between storage drivers. For overlay2 the layers
// are linked: dockerd follows the link when it mounts, and removes only the link.
func copyTemplate(template, dataRoot string) error {
	layers, err := filepath.Glob(filepath.Join(template, "overlay2", "*", "diff"))
	if err != nil {
		return err
	}
	if len(layers) == 0 {
		return command("cp", "-a", "--reflink=auto", template, dataRoot)
	}
	args := []string{"--create", "--directory", template, "--exclude", "./overlay2/*/diff", "."}
	if err := os.Mkdir(dataRoot, 0o711); err != nil {
		return err
	}
	if err := pipe(exec.Command("tar", args...),
		exec.Command("tar", "--extract", "--directory", dataRoot)); err != nil {
		return err
	}
	for _, layer := range layers {
		path, err := filepath.Rel(template, layer)
		if err != nil {
			return err
		}
		if err := os.Symlink(layer, filepath.Join(dataRoot, path)); err != nil {
			return err
		}
	}
	return nil
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

// pipe runs two programs. The output of the first is the input of the second.
func pipe(from, to *exec.Cmd) error {
	var stderr bytes.Buffer
	to.Stderr = &stderr
	out, err := from.StdoutPipe()
	if err != nil {
		return err
	}
	to.Stdin = out
	if err := from.Start(); err != nil {
		return err
	}
	err = errors.Join(to.Run(), from.Wait())
	if err != nil {
		return fmt.Errorf("copy the template: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

// Script runs one of the scripts of the repository and returns the line that it prints.
func Script(name string, args ...string) (string, error) {
	top, err := moduleRoot()
	if err != nil {
		return "", err
	}
	cmd := exec.Command(filepath.Join(top, "scripts", name), args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("scripts/%s: %w", name, err)
	}
	return string(bytes.TrimSpace(out)), nil
}

// moduleRoot returns the folder with go.mod. Tests run in the folder of their package.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod above the working folder")
		}
		dir = parent
	}
}
