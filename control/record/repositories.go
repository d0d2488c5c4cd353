package record

import "github.com/droverhq/drover/dataset"

// GetRepository reads a repository, so that the decision depends on it. It fails with dataset.ErrNotFound.
func GetRepository(t *Tx, name string) (repo dataset.Repository, err error) {
	if err := dataset.CheckRepositoryName(name); err != nil {
		return repo, err
	}
	known, err := t.Get(RepositoryKey(name), &repo)
	if err != nil || known {
		return repo, err
	}
	all, err := ListAll[dataset.Repository](t, RepositoriesPrefix)
	if err != nil {
		return repo, err
	}
	names := make([]string, len(all))
	for i, o := range all {
		names[i] = o.Name
	}
	return repo, dataset.Errorf(dataset.ErrNotFound, "no such repository: %q (available: %s)%s", name,
		dataset.FormatChoices(names), dataset.Suggestion(name, names))
}
