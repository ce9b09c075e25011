# Makes the source whole: unpacks it, takes what Debian's Go needs newer, writes the generated file that it lacks.
mkdir -p "${SOURCE%/*}"
dpkg-source --extract /src/kubernetes_*really"$VERSION"-*.dsc "$SOURCE"
cd "$SOURCE"
# With a Go later than 1.17, a program that has upstream's reflect2 panics as soon as it writes a map as JSON.
rm -r vendor/github.com/modern-go/reflect2
cp -r /usr/share/gocode/src/github.com/modern-go/reflect2 vendor/github.com/modern-go
go build -o /src/openapi-gen ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
# As upstream's Makefile has it: the packages that carry the tag, and three more.
packages=$(
    cd vendor
    for each in api apimachinery apiserver apiextensions-apiserver kube-aggregator metrics; do
        # With a slash at the end: these are symbolic links.
        grep -rl --include='*.go' +k8s:openapi-gen=true "k8s.io/$each/"
    done | xargs dirname | sort -u | sed 's,^,vendor/,'
)
for each in $packages vendor/k8s.io/apimachinery/pkg/version vendor/k8s.io/apimachinery/pkg/runtime \
    pkg/apis/abac/v1beta1; do
    inputs="${inputs:+$inputs,}k8s.io/kubernetes/$each"
done
/src/openapi-gen --input-dirs "$inputs" --output-base /go/src --output-package k8s.io/kubernetes/pkg/generated/openapi \
    --output-file-base zz_generated.openapi --go-header-file hack/boilerplate/boilerplate.generatego.txt \
    --report-filename /dev/null
