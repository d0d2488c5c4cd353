package restic

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/keys"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/tree"
)

// restPrefix begins the URL of a server of the REST protocol.
const restPrefix = "rest:"

func (o Options) isREST() bool { return strings.HasPrefix(o.URL, restPrefix) }

// place has the arguments that say where the repository is, for one run of restic. Its files contain the credentials of
// a REST server, or are its directory.
type place struct {
	args   []string
	files  []*os.File // descriptors 3 and 4 of restic
	secret string     // empty if there are no credentials
}

// place returns the place of the repository. restic accepts the credentials of a REST server only in the URL. So the
// URL and the certificates are in files without a name: neither the arguments nor the environment has a secret.
func (r *Repository) place(ctx context.Context) (p place, err error) {
	if filepath.IsAbs(r.options.URL) {
		return r.directory(ctx)
	}
	if !r.options.isREST() || r.options.CredentialsFile == "" {
		return place{args: []string{"--repo=" + r.options.URL}}, nil
	}
	c, err := keys.ReadRESTCredentials(r.options.CredentialsFile)
	if err != nil {
		return p, r.failed(err)
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	at, err := c.AddTo(strings.TrimPrefix(r.options.URL, restPrefix))
	if err != nil {
		return p, r.failed(err)
	}
	p.secret = string(c.Secret.Reveal())
	if err := p.add("--repository-file", restPrefix+at); err != nil {
		return p, r.failed(err)
	}
	if len(c.Certificates) > 0 {
		if err := p.add("--cacert", string(c.Certificates)); err != nil {
			return p, r.failed(err)
		}
	}
	return p, nil
}

// firstFile is the path of a place's first file in restic.
const firstFile = "/dev/fd/3"

// directory is place for a repository in a directory. Its server, or its owner, can put links into it: restic would
// follow them, and a prune would remove files of the host. So restic gets the directory in a mount that follows none.
func (r *Repository) directory(ctx context.Context) (p place, err error) {
	// If the server of the directory does not answer, a program can be killed, and this process cannot.
	_, err = r.runner.Run(ctx, run.Command{Name: "stat", Args: []string{"--", r.options.URL}, Timeout: shortTime})
	if ctx.Err() != nil {
		return p, r.failed(context.Cause(ctx))
	}
	if errors.Is(err, run.ErrTimeout) {
		return p, r.errorf(dataset.ErrOffline, "it did not answer in time")
	}
	dir, err := os.OpenFile(r.options.URL, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return p, r.errorf(dataset.ErrNotFound, "there is no repository")
	}
	if err != nil {
		return p, r.errorf(dataset.ErrOffline, "it cannot be opened: %w", err)
	}
	defer dir.Close()
	safe, err := tree.NoFollow(dir)
	if errors.Is(err, unix.EPERM) { // without the right to mount, this process is not root
		return place{args: []string{"--repo=" + r.options.URL}}, nil
	}
	if err != nil {
		return p, r.failed(err)
	}
	return place{args: []string{"--repo=" + firstFile}, files: []*os.File{safe}}, nil
}

// add adds a file without a name, and the option with its path.
func (p *place) add(option, content string) error {
	fd, err := unix.MemfdCreate("drover", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), option)
	if _, err := f.WriteString(content); err != nil {
		return errors.Join(err, f.Close())
	}
	p.args = append(p.args, fmt.Sprintf("%s=/dev/fd/%d", option, 3+len(p.files)))
	p.files = append(p.files, f)
	return nil
}

func (p *place) close() {
	for _, f := range p.files {
		_ = f.Close()
	}
}

// refusal ends a run of restic once a server has refused a request for a reason that does not go away. restic 0.14
// repeats each of these requests for 50 seconds, so a push of a few packs would take minutes to fail.
type refusal struct {
	stop func()

	mu   sync.Mutex
	line string // of restic's output; empty if nothing was refused
}

// retried matches restic's message that it repeats a request. It contains the reason. Messages about a file of the
// volume begin in another way: its name can contain any text.
func retried() *regexp.Regexp {
	return regexp.MustCompile(
		`^(?:Save|Load|Stat|Test|Remove|List)\((?:<[^<>]*>|[a-z]+)[0-9, ]*\) returned error, retrying after \S+: (.*)`)
}

// look looks for a refusal in a line of restic's output.
func (f *refusal) look(line []byte) {
	found := retried().FindSubmatch(line)
	if found == nil {
		return
	}
	text, message := string(found[1]), string(found[0])
	for _, status := range []string{"401 Unauthorized", "403 Forbidden", "507 Insufficient Storage"} {
		if strings.Contains(text, status) {
			f.mu.Lock()
			f.line = message
			f.mu.Unlock()
			f.stop()
		}
	}
}

func (f *refusal) found() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.line
}
