package projects

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/droverhq/drover/dataset"
)

// find returns where a project is: from the labels of its containers, and from the files that the user names, if any.
// Without containers and files, it is in the working directory if that has a journal of the project. find fails with
// dataset.ErrNotFound if none of this says where the project is.
func find(name string, files []string, all []Container, journals string) (Project, error) {
	p := Project{Name: name}
	var of []Container
	for _, c := range all {
		if c.Project == name && !c.OneOff {
			of = append(of, c)
		}
	}
	for _, c := range of {
		if p.Dir == "" {
			p.Dir, p.EnvFiles = c.Labels[labelDir], split(c.Labels[labelEnv])
			if len(files) == 0 {
				p.Files = split(c.Labels[labelFiles])
			}
		}
		if len(files) == 0 && !slices.Equal(p.Files, split(c.Labels[labelFiles])) {
			return p, dataset.Errorf(dataset.ErrAmbiguous, "containers %s and %s of project %s come from different "+
				"files (name all of them, in their order: --file FILE --file FILE)", of[0].Name, c.Name, name)
		}
	}
	if len(files) > 0 {
		p.Files = files
	}
	if p.Dir == "" && len(p.Files) > 0 {
		p.Dir = filepath.Dir(p.Files[0])
	}
	if p.Dir == "" {
		here, err := os.Getwd()
		if err != nil {
			return p, err
		}
		if _, err := os.Stat(journalPath(journals, here, name)); err != nil {
			return p, dataset.Errorf(dataset.ErrNotFound, "the engine has no containers of project %q (docker "+
				"compose ls "+
				"--all lists the projects, and --file FILE names one without containers)", dataset.Clip(name))
		}
		p.Dir = here
	}
	return p, nil
}

// split splits a label with paths.
func split(label string) []string {
	return slices.DeleteFunc(strings.Split(label, ","), func(s string) bool { return s == "" })
}

// checkFiles fails if a Compose file of the project cannot be read and replaced.
func checkFiles(p Project) error {
	if len(p.Files) == 0 {
		return dataset.Errorf(dataset.ErrInvalid, "the containers of project %s do not say which Compose file made "+
			"them (name the file: --file FILE)", p.Name)
	}
	for _, f := range p.Files {
		info, err := os.Lstat(f)
		switch {
		case !filepath.IsAbs(f):
			return dataset.Errorf(dataset.ErrInvalid, "the Compose file %q of project %s is not a path of this host "+
				"(name the file: --file FILE)", f, p.Name)
		case err != nil:
			return dataset.Errorf(dataset.ErrInvalid, "the Compose file of project %s: %w (name the file: --file FILE)",
				p.Name, err)
		case !info.Mode().IsRegular():
			return dataset.Errorf(dataset.ErrInvalid, "the Compose file %s is a symbolic link or no file, so it "+
				"cannot be replaced (name the file itself: --file FILE)", f)
		}
	}
	return nil
}

// containers returns all containers of the engine. The sources of their mounts are without symbolic links: the engine
// reports them as its user wrote them, and two paths can lead to one folder.
func containers(ctx context.Context, e Engine) ([]Container, error) {
	all, err := e.Containers(ctx)
	for n := range all {
		all[n].Mounts = slices.Clone(all[n].Mounts)
		for k, x := range all[n].Mounts {
			all[n].Mounts[k].Source = resolved(x.Source)
		}
	}
	return all, err
}

// resolved returns a path without symbolic links, or the path itself if it cannot be resolved.
func resolved(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil && filepath.IsAbs(path) {
		return real
	}
	return path
}

// running returns how many containers of each service of a project run.
func running(name string, all []Container) map[string]int {
	out := map[string]int{}
	for _, c := range all {
		if c.Project == name && !c.OneOff && c.Running() {
			out[c.Service]++
		}
	}
	return out
}
