package remoteserver

import (
	"slices"

	"github.com/droverhq/drover/dataset"
)

// noteUse notes that a grant is used now. It is kept only in memory, so that a request does not cause a write.
func (s *Server) noteUse(g grant) {
	now := s.deps.Clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastUse[g.SecretHash] = now
}

// WithUses returns a list of grants with what the Server knows of their use. It does not access the disk.
func (s *Server) WithUses(list []dataset.Grant) []dataset.Grant {
	s.mu.Lock()
	defer s.mu.Unlock()
	list = slices.Clone(list)
	for i, g := range list {
		use := &dataset.GrantUse{Since: s.started, Last: s.lastUse[g.SecretHash]}
		if known := s.grants[g.Name]; known.SecretHash == g.SecretHash && known.directory != nil {
			use.Used = dataset.Size(known.directory.Used())
		}
		list[i].Use = use
	}
	return list
}
