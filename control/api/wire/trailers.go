package wire

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Trailers of an archive. An incomplete archive must not look complete, but the HTTP status cannot change after the
// first bytes. If the peer asked for trailers (TE: trailers), they show whether the archive is complete. For a peer
// that did not ask, the server breaks the connection after an incomplete archive.
const (
	CodeTrailer    = "Drover-Code"     // CodeOK, or the code of a problem
	DetailTrailer  = "Drover-Detail"   // the text of the problem, percent-encoded
	LeftOutTrailer = "Drover-Left-Out" // what a complete archive lacks; absent: nothing

	CodeOK = "ok" // value of CodeTrailer after a complete archive
)

// TrailerNames lists the trailers, as the header Trailer announces them.
func TrailerNames() []string { return []string{CodeTrailer, DetailTrailer, LeftOutTrailer} }

// WantsTrailers reports whether the peer asked for trailers.
func WantsTrailers(r *http.Request) bool {
	for _, v := range r.Header.Values("TE") {
		if strings.Contains(strings.ToLower(v), "trailers") {
			return true
		}
	}
	return false
}

// SetTrailers sets the trailers of an archive that ended with err. If err is nil, the archive is complete except for
// the files in leftOut.
func SetTrailers(h http.Header, leftOut api.OmittedFiles, err error) {
	if err != nil {
		p := ProblemOf(err)
		h.Set(CodeTrailer, p.Code)
		h.Set(DetailTrailer, url.PathEscape(p.Detail))
		return
	}
	h.Set(CodeTrailer, CodeOK)
	if leftOut.Count > 0 {
		h.Set(LeftOutTrailer, formatOmittedFiles(leftOut))
	}
}

// StreamError returns the error that the trailers of an archive report. Without trailers it is unknown whether the
// archive is complete, so the error is ErrUnavailable.
func StreamError(h http.Header) error {
	code := h.Get(CodeTrailer)
	switch code {
	case CodeOK:
		return nil
	case "":
		return dataset.Errorf(dataset.ErrUnavailable, "the answer ended early: the received data is incomplete")
	}
	detail, err := url.PathUnescape(h.Get(DetailTrailer))
	if err != nil {
		detail = h.Get(DetailTrailer)
	}
	return (&Problem{Code: code, Detail: detail}).Err()
}

// formatOmittedFiles returns the value of LeftOutTrailer: the count and the first paths, percent-encoded, with a space
// between two.
func formatOmittedFiles(l api.OmittedFiles) string {
	words := []string{strconv.Itoa(l.Count)}
	for _, path := range l.First {
		words = append(words, url.PathEscape(path))
	}
	return strings.Join(words, " ")
}

// ReadOmittedFiles reads LeftOutTrailer. If it is absent, nothing was left out.
func ReadOmittedFiles(h http.Header) (l api.OmittedFiles, err error) {
	words := strings.Fields(h.Get(LeftOutTrailer))
	if len(words) == 0 {
		return l, nil
	}
	if l.Count, err = strconv.Atoi(words[0]); err != nil {
		return l, dataset.Errorf(dataset.ErrInternal, "bad answer: %s is %q", LeftOutTrailer,
			dataset.Clip(h.Get(LeftOutTrailer)))
	}
	for _, word := range words[1:] {
		path, err := url.PathUnescape(word)
		if err != nil {
			path = word
		}
		l.First = append(l.First, path)
	}
	return l, nil
}
