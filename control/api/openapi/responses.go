package openapi

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

// Names of the shared responses.
const (
	refusedResponse = "Refused"
	failedResponse  = "Failed"
)

// problem returns the content of a response with a problem.
func problem() map[string]*huma.MediaType {
	return map[string]*huma.MediaType{wire.ProblemType: {Schema: &huma.Schema{Ref: "#/components/schemas/Problem"}}}
}

// sharedResponses returns the responses that every endpoint refers to.
func sharedResponses() map[string]*huma.Response {
	return map[string]*huma.Response{
		refusedResponse: {
			Description: "The request was refused, and changed nothing. Codes: " + codes(http.StatusBadRequest) +
				". A request that is not part of this API has the code invalid with 400, 404, 405, 413 or 415.",
			Content: problem(),
		},
		failedResponse: {
			Description: "The request failed. Codes: " + codes(http.StatusInternalServerError) + ".",
			Content:     problem(),
		},
	}
}

// codes lists the codes of the problems whose HTTP status begins with the same digit, each with its status.
func codes(status int) string {
	var list []string
	for _, kind := range dataset.Kinds() {
		if kind.HTTP/100 == status/100 {
			list = append(list, fmt.Sprintf("%s (%d)", kind.Code, kind.HTTP))
		}
	}
	return strings.Join(list, ", ")
}

// ProblemResponses returns the responses for refused and failed requests, for one endpoint.
func ProblemResponses() map[string]*huma.Response {
	return map[string]*huma.Response{
		"4XX": {Ref: "#/components/responses/" + refusedResponse},
		"5XX": {Ref: "#/components/responses/" + failedResponse},
	}
}

// Accepted returns the response 202 for one endpoint. The endpoint adds its content.
func Accepted() *huma.Response {
	return &huma.Response{
		Description: "Accepted. The work continues as an operation. Wait for the operation, or repeat the request " +
			"with the same UUID in the parameter operation.",
		Headers: map[string]*huma.Param{"Location": {
			Description: "address of the operation, or of the list of operations if there are several",
			Schema:      &huma.Schema{Type: huma.TypeString, Format: "uri-reference"},
		}},
	}
}
